"""The kernel's own spelling: constants, structures, one-line wrappers that raise ``OSError`` and nothing else."""
