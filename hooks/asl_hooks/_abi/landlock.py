"""landlock(7): the three system calls, one line each. Each raises ``OSError``; ``asl_hooks.landlock`` adds meaning."""

from __future__ import annotations

import struct

from asl_hooks._abi import ctypes
from asl_hooks._abi.constants import LANDLOCK_CREATE_RULESET_VERSION, LANDLOCK_RULE_NET_PORT, LANDLOCK_RULE_PATH_BENEATH
from asl_hooks._abi.linux import bind

_create_ruleset = bind("landlock_create_ruleset", ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint)
_add_rule = bind("landlock_add_rule", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_restrict_self = bind("landlock_restrict_self", ctypes.c_int, ctypes.c_uint)

_beneath = struct.Struct("=Qi").pack


def version() -> int:
    """The kernel's Landlock ABI."""
    return _create_ruleset(None, 0, LANDLOCK_CREATE_RULESET_VERSION)


def create_ruleset(fs: int, net: int, scopes: int) -> int:
    """A new ruleset's descriptor, close-on-exec. What an older kernel does not know must be 0."""
    attributes = struct.pack("=QQQ", fs, net, scopes)
    return _create_ruleset(attributes, len(attributes), 0)


def add_path(ruleset: int, access: int, parent: int) -> None:
    """Grant *access* on the file, or beneath the folder, that the descriptor *parent* stands for."""
    _add_rule(ruleset, LANDLOCK_RULE_PATH_BENEATH, _beneath(access, parent), 0)


def add_port(ruleset: int, access: int, port: int) -> None:
    """Grant *access* to *port*."""
    _add_rule(ruleset, LANDLOCK_RULE_NET_PORT, struct.pack("=QQ", access, port), 0)


def restrict_self(ruleset: int, flags: int) -> None:
    """Restrict the calling thread."""
    _restrict_self(ruleset, flags)
