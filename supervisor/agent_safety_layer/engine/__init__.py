"""The run loop: stopped calls in, answers and trace lines out. ``loop`` draws how they flow."""
