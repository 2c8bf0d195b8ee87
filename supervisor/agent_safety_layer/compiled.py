"""A safety layer's policies and boundaries as a policy that the kernel can be held to, for sandboxed calls.

    FilePolicy        its own layers                 PathBoundary      files
    PatternPolicy     a rule for each command line   NetworkBoundary   network
    TimeBoundary      limits.wall_time               ResourceBoundary  limits.memory, open_files

Each becomes a layer of its own: all of them must agree. Where none of them speaks of files or the network, the default
profile does. What judges a call by its words alone (custom and approval policies, boundaries of your own, patterns that
RE2 cannot express) has judged the call before it begins, and nothing of it is left to hold.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agent_safety_layer.boundaries import Boundary, NetworkBoundary, PathBoundary, ResourceBoundary
from agent_safety_layer.filepolicy import FilePolicy, loaded
from agent_safety_layer.policies import PatternPolicy, Policy
from agent_safety_layer.policy import DEFAULT, load_text
from agent_safety_layer.policy import Policy as FilePolicies
from agent_safety_layer.policy.globs import escape
from agent_safety_layer.policy.model import Layer, Limits
from asl_hooks.value import replace

if TYPE_CHECKING:
    from agent_safety_layer.layer import SafetyLayer

_NO_TMP = "/proc/self/fd/no-tmp-yet"
Source = bool | str | os.PathLike[str] | FilePolicies

Sandbox = tuple[Source, Mapping[str, Any] | None]  # a further policy, and limits

# What Python and the C library need to run at all, where an allowlist names only an operation's own folders.
_RUNTIME = (
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/opt", "/proc", "/sys/devices/system/cpu", "/dev/shm"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/timezone", "/etc/ssl/certs"),
    *("/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/hosts"),
    *("/etc/resolv.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/mime.types"),
    *("/etc/locale.alias", "/etc/alternatives", "/etc/pki/tls"),
)


def limits_from(given: Mapping[str, Any]) -> Limits:
    """Limits as the ``limits`` section of a policy file has them: ``{"memory": "2GiB"}``. Raises ``PolicyError``."""
    return _limits_from(tuple(given.items()))


@lru_cache(maxsize=256)
def _limits_from(given: tuple[tuple[str, Any], ...]) -> Limits:
    if not given:
        return Limits()
    variables = {"WORKSPACE": "/", "HOME": "/"}
    return load_text("version: 1\n", name="limits", variables=variables, extra={"limits": dict(given)}).limits


def policy_of(layer: SafetyLayer, further: Source = True, limits: Mapping[str, Any] | None = None) -> FilePolicies:
    """The policy for a sandboxed call under *layer*; *further* is a profile, file or policy that holds as well, and so
    do *limits*.

    Raises ``PolicyError`` for what cannot be said in a policy.
    """
    made: list[FilePolicies] = []
    if isinstance(further, FilePolicies):
        made.append(further)
    elif not isinstance(further, bool):
        made.append(_named(os.fspath(further), os.getcwd()))
    made += [policy.policy for policy in layer.policy_set if isinstance(policy, FilePolicy)]
    made += [FilePolicies((bound,)) for each in layer.boundary_set if (bound := _of_boundary(each)) is not None]
    if not any(each.files or each.network for policy in made for each in policy.layers):
        made.append(_named(DEFAULT, os.getcwd()))
    made += [FilePolicies((rules,)) for rules in _rules(layer.policy_set)]
    for name, found in (("boundaries", _limits(layer)), ("limits", limits_from(limits or {}))):
        if found != Limits():
            made.append(FilePolicies((Layer(name, limits=found),)))
    sources = dict(source for policy in made for source in policy.sources)
    return FilePolicies(tuple(each for policy in made for each in policy.layers), tuple(sources.items()))


def _named(source: str, workspace: str) -> FilePolicies:
    """A profile or file. Each call has a private folder for ``${TMP}``, which is not there yet."""
    return loaded((source,), workspace, _NO_TMP)


def _limits(layer: SafetyLayer) -> Limits:
    """Those of boundaries: the time that is left now, and the least of what the others say."""
    resources = [each for each in layer.boundary_set if isinstance(each, ResourceBoundary)]
    megabytes = min((each.max_memory_mb for each in resources if each.max_memory_mb is not None), default=None)
    return (
        Limits(
            wall_time_s=layer.boundary_set.seconds_left(),
            memory_bytes=None if megabytes is None else int(megabytes * 2**20),
            open_files=min(
                (each.max_open_files for each in resources if each.max_open_files is not None), default=None
            ),
            grace_s=0.0,
        )
        if resources or layer.boundary_set.seconds_left() is not None
        else Limits()
    )


def _rules(policies: Iterable[Policy]) -> list[Layer]:
    found = []
    for policy in policies:
        if isinstance(policy, PatternPolicy) and policy.context_key is None:
            made = _rule(policy.name, policy.pattern_str, policy.pattern.flags, policy.action.value, policy.reason)
            if made is not None:
                found.append(made)
    return found


@lru_cache(maxsize=1024)
def _rule(name: str, pattern: str, flags: int, action: str, reason: str) -> Layer | None:
    """The pattern looked for in each command line that is executed; None when RE2 cannot express it."""
    import re2

    known = ((re.IGNORECASE, "i"), (re.MULTILINE, "m"), (re.DOTALL, "s"))
    letters = "".join(letter for flag, letter in known if flags & flag)
    match = f"(?{letters}){pattern}" if letters else pattern
    options = re2.Options()
    options.log_errors = False
    try:
        if flags & re.VERBOSE:
            return None
        re2.compile(match, options)
    except re2.error:
        return None
    rule = {"name": name, "on": "process.exec", "match": match, "action": action, "reason": reason}
    return _layer(name, rules=[rule])


def _of_boundary(boundary: Boundary) -> Layer | None:
    if isinstance(boundary, PathBoundary):
        allowed = tuple(sorted(map(str, boundary.allowed_paths)))
        blocked = tuple(sorted(map(str, boundary.blocked_paths)))
        patterns = tuple(boundary.allow_patterns), tuple(boundary.block_patterns)
        return _files(boundary.name, allowed, blocked, *patterns, os.path.expanduser("~"))
    if isinstance(boundary, NetworkBoundary):
        hosts = tuple(sorted(boundary.allowed_hosts)), tuple(sorted(boundary.blocked_hosts))
        ports = tuple(sorted(boundary.allowed_ports)), tuple(sorted(boundary.blocked_ports))
        return _network(boundary.name, *hosts, *ports, boundary.allow_private_ips)
    return None


@lru_cache(maxsize=256)
def _files(
    name: str,
    allowed: tuple[str, ...],
    blocked: tuple[str, ...],
    allow_patterns: tuple[str, ...],
    block_patterns: tuple[str, ...],
    home: str,
) -> Layer:
    files: dict[str, list[str]] = {"block": [escape(path) for path in blocked]}
    if allowed or allow_patterns:
        files["write"] = [escape(path) for path in allowed]
        files["write"] += (form for pattern in allow_patterns for form in _globs(pattern, home))
        files["read"] = [*map(escape, _runtime())]
    rules = [
        {
            "name": f"{name}: {pattern}",
            "on": "file",
            "match": _regex(pattern, home),
            "action": "block",
            "reason": f"Path matches blocked pattern: {pattern}",
        }
        for pattern in block_patterns
    ]
    return _layer(name, files=files, rules=rules)


def _runtime() -> list[str]:
    """What Python itself is made of, on top of the system's folders; not where the program's own code lies."""
    roots = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    roots |= {path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")}
    roots |= {os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}
    return [*_RUNTIME, *sorted(root for root in roots if os.path.isabs(root) and root != "/")]


def _globs(pattern: str, home: str) -> list[str]:
    """The ``fnmatch`` pattern, whose ``*`` crosses ``/``, as globs that match no more than it does."""
    pattern = home + pattern[1:] if pattern.startswith("~/") else pattern
    head, slash, name = pattern.rpartition("/")
    if pattern.startswith("/"):
        return [pattern, f"{head}{slash}**/{name}"] if name.startswith("*") else [pattern]
    return [f"/**/{pattern.lstrip('*/')}"] if slash else [f"/**/{pattern}"]


def _regex(pattern: str, home: str) -> str:
    """What RE2 finds in the text of an event (one path, or ``path -> path2``) where the pattern fits a path in it."""
    pattern = home + pattern[1:] if pattern.startswith("~/") else pattern
    body = fnmatch.translate(pattern).removeprefix("(?s:").removesuffix(r")\Z").replace("(?>", "(?:")
    return f"(?s)(^|-> |/)({body})($| ->)" if "/" not in pattern else f"(?s)(^|-> )({body})($| ->)"


@lru_cache(maxsize=256)
def _network(
    name: str,
    allowed: tuple[str, ...],
    blocked: tuple[str, ...],
    ports: tuple[int, ...],
    blocked_ports: tuple[int, ...],
    private: bool,
) -> Layer:
    network: dict[str, Any] = {"private_ips": private}
    if allowed or ports:
        every = [form for host in allowed or ("*",) for form in _hosts(host)]
        network["allow"] = [_with_port(host, port) for host in every for port in ports or (None,)]
    network["block"] = [form for host in blocked for form in _hosts(host)]
    network["block"] += (f"*:{port}" for port in blocked_ports)
    return _layer(name, network=network)


def _hosts(host: str) -> list[str]:
    """A boundary's ``*.x.com`` stands for ``x.com`` as well."""
    return [host, host[2:]] if host.startswith("*.") else [host]


def _with_port(host: str, port: int | None) -> str:
    if port is None:
        return host
    return f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"


def _layer(name: str, **sections: Any) -> Layer:
    variables = {"WORKSPACE": "/", "HOME": "/"}
    text = json.dumps({"version": 1, **sections})  # which is YAML, too
    (made,) = load_text(text, name=name, variables=variables).layers
    return replace(made, name=name)


__all__ = ["policy_of"]
