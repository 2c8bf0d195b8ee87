"""What must not be recorded of a command line: passwords, tokens, keys. Decisions see the whole; records do not.

The list finds secrets by name (``--password=…``, ``Authorization: …``), by place (``user:…@`` in a URL, ``curl -u``)
and by form (``ghp_…``, ``AKIA…``). It cannot know a secret that looks like an ordinary word. An argv without any of
``_HINTS`` costs a microsecond and no regular expression. The expressions take linear time: each repetition is bounded.

Who decides about a command line must see all of it that does something: there (``asked``) nothing is replaced that a
shell or another interpreter could act on, such as ``TOKEN="$(…)"``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from re import Match, Pattern

REDACTED = "[redacted]"
_ACTIVE = frozenset("`$;|&<>()\n\r")

_HINTS = (
    *(
        "pass",
        "pwd",
        "secret",
        "token",
        "key",
        "auth",
        "bearer",
        "cred",
        "cookie",
        "sig",
        "session",
        "curl",
        "mysql",
        "mariadb",
    ),
    *(
        "sk-",
        "sk_",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xox",
        "akia",
        "asia",
        "aiza",
        "hf_",
        "npm_",
        "pypi-",
    ),
    *("eyj", "@"),
)

# Programs that take a secret behind a short option: the options, and whether it may be attached to them (-pSECRET).
_SHORT: dict[str, tuple[tuple[str, ...], bool]] = {
    "curl": (("-u", "-U", "-b"), True),
    "mysql": (("-p",), True),
    "mysqldump": (("-p",), True),
    "mysqladmin": (("-p",), True),
    "mariadb": (("-p",), True),
    "sshpass": (("-p",), True),
}
_ATTACHED_ONLY = ("mysql", "mysqldump", "mysqladmin", "mariadb")  # "-p" alone prompts; the next word is a database

_NAME = (
    r"(?:passw(?:or)?d|passphrase|passwd|pwd|secret|token(?!i|s\b|s[=:_])|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key"
    r"|signing[_-]?key|encryption[_-]?key|credentials?|(?<![a-z])sig(?:nature)?|set-cookie|cookie|session[_-]?id)"
)
_VALUE = r"""(?:"[^"]{1,65536}"|'[^']{1,65536}'|[^\s&;,"'|)}\]]{1,65536})"""

_patterns: list[tuple[Pattern[str], str]] = []
_names_a_secret: Pattern[str] | None = None
_looks_random: Pattern[str] | None = None


def arguments(argv: tuple[str, ...], *, asked: bool = False) -> tuple[str, ...]:
    """The argv with secrets replaced by ``[redacted]``; the very same object when there are none."""
    low = "\0".join(argv).lower()
    for hint in _HINTS:
        if hint in low:
            return _arguments(argv, asked)
    return argv


def text(said: str, *, asked: bool = False) -> str:
    """The text with secrets replaced by ``[redacted]``; the very same object when there are none."""
    low = said.lower()
    for hint in _HINTS:
        if hint in low:
            shown = _text(said, asked)
            return said if shown == said else shown
    return said


def _arguments(argv: tuple[str, ...], asked: bool) -> tuple[str, ...]:
    _compile()
    assert _names_a_secret is not None and _looks_random is not None
    program = argv[0].rpartition("/")[2]
    short, attached = _SHORT.get(program, ((), False))
    shown: list[str] = []
    due = ""  # the option whose value comes next
    for word in argv:
        if due and (not word.startswith("--") or due in short):
            named = _names_a_secret.fullmatch(due) or due in short
            secret = word if named or _looks_random.fullmatch(word) else ""
            due = ""
            if secret and not (asked and _acts(secret)):
                shown.append(REDACTED)
                continue
        due = ""
        if word in short and program not in _ATTACHED_ONLY:
            due = word
            shown.append(word)
        elif attached and word[:2] in short and len(word) > 2 and not (asked and _acts(word)):
            shown.append(word[:2] + REDACTED)
        else:
            if word.startswith("-") and "=" not in word and word not in short:
                due = word
            shown.append(_text(word, asked))
    return argv if tuple(shown) == argv else tuple(shown)


def _text(said: str, asked: bool) -> str:
    _compile()
    for pattern, replacement in _patterns:
        said = pattern.sub(_inactive(replacement) if asked else replacement, said)
    return said


def _acts(hidden: str) -> bool:
    return not _ACTIVE.isdisjoint(hidden)


def _inactive(replacement: str) -> Callable[[Match[str]], str]:
    """What replaces a match, unless that would hide what something could act on."""
    return lambda found: found[0] if _acts(found[0]) else found.expand(replacement)


def _compile() -> None:
    global _names_a_secret, _looks_random
    if _patterns:
        return
    import re

    hide = REDACTED

    def add(pattern: str, replacement: str, flags: int = re.IGNORECASE) -> None:
        _patterns.append((re.compile(pattern, flags), replacement))

    add(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)[^-]{0,65536}", rf"\1{hide}")
    add(r"(://[^\s/@:]{0,256}:)[^\s/@]{1,1024}(?=@)", rf"\1{hide}")  # user:password@
    add(r"(://)[^\s/@:]{20,1024}(?=@)", rf"\1{hide}")  # a token alone before the @
    add(
        r"(\b(?:proxy-)?authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:[a-z]{1,20}\s{1,4})?)[^\s\"',;]{1,65536}",
        rf"\1{hide}",
    )
    add(r"(\bbearer\s{1,4})[\w.~+/=-]{8,65536}", rf"\1{hide}")
    add(rf"({_NAME}\w{{0,24}}[\"']?\s{{0,4}}[=:]\s{{0,4}})(?!\[redacted\]){_VALUE}", rf"\1{hide}")
    add(rf"(--?[\w-]{{0,40}}{_NAME}\s{{1,4}})(?![-\[]){_VALUE}", rf"\1{hide}")  # inside sh -c '…'
    add(r"(key[\w-]{0,16}[\"']?[\s=:]{1,3}[\"']?)[0-9a-f]{24,65536}\b", rf"\1{hide}")
    forms = (
        *(r"sk-[\w-]{16,512}", r"[sr]k_(?:live|test)_\w{10,512}", r"gh[pousr]_\w{20,512}", r"github_pat_\w{20,512}"),
        *(r"glpat-[\w-]{16,512}", r"xox[abeoprs]-[\w-]{10,512}", r"A(?:KIA|SIA)[0-9A-Z]{16}", r"AIza[\w-]{30,512}"),
        *(r"hf_[A-Za-z0-9]{20,512}", r"npm_\w{30,512}", r"pypi-[\w-]{30,512}"),
        r"eyJ[\w-]{8,65536}\.[\w-]{8,65536}\.[\w-]{0,65536}",
    )
    add(r"(?<![A-Za-z0-9])(?:" + "|".join(forms) + ")", hide, 0)
    _names_a_secret = re.compile(rf"--?[\w-]{{0,40}}{_NAME}", re.IGNORECASE)
    _looks_random = re.compile(r"(?=.*[0-9])(?:[0-9a-fA-F]{24,4096}|[A-Za-z0-9+/_-]{40,4096}={0,2})")
