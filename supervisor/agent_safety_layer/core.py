"""The names that release 0.1 kept here."""

from __future__ import annotations

from agent_safety_layer.layer import SafetyLayer, create_safety_layer
from agent_safety_layer.sessions import SafetySession
from agent_safety_layer.violations import SafetyCheckResult, SafetyViolation

__all__ = ["SafetyCheckResult", "SafetyLayer", "SafetySession", "SafetyViolation", "create_safety_layer"]
