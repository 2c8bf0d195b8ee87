"""Finding what a path names, as the tracee would, and holding on to it.

``locate`` gives the canonical name *and* an ``O_PATH`` descriptor of the object: what is judged is what is later
used, whatever is renamed or relinked meanwhile. The kernel resolves in one openat2(2) where it can; what depends on
who asks (``/proc/self``, ``/dev/fd``, magic links) is walked here component by component.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ELOOP, ENOENT, ENOTDIR

from asl_hooks._abi import linux
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_OBJECT = os.O_PATH | os.O_CLOEXEC
_LINKS = 40  # as the kernel's limit

readlink = os.readlink


@value
class Located:
    """Where a path leads: its canonical absolute name (``pipe:[…]`` and the like for what has none), an O_PATH
    descriptor (-1 when nothing is there), and why not.

    ``errno`` is 0 when the object exists; ENOENT with a meaningful ``path`` when only the last component is missing
    (``creatable``). The descriptor is the receiver's to close.
    """

    path: bytes
    fd: int = -1
    errno: int = 0
    creatable: bool = False


def name_of(fd: int) -> bytes:
    """The canonical name of an open descriptor of this process; not a path for pipes and the like (``pipe:[…]``)."""
    return readlink(b"/proc/self/fd/%d" % fd)


def base_of(tid: int, dir_fd: int) -> bytes:
    """The folder that a relative path starts from: the thread's working directory, or its descriptor *dir_fd*.

    ``OSError(EBADF)`` when there is no such descriptor, ``OSError(ENOENT)`` when the folder was deleted.
    """
    if dir_fd == linux.AT_FDCWD:
        base = readlink(b"/proc/%d/cwd" % tid)
    else:
        try:
            base = readlink(b"/proc/%d/fd/%d" % (tid, dir_fd))
        except FileNotFoundError as error:
            raise OSError(9, "bad descriptor") from error
        if not base.startswith(b"/"):
            raise OSError(ENOTDIR, "not a folder")
    if base.endswith(b" (deleted)") and not os.path.lexists(base):
        there = b"/proc/%d/cwd" % tid if dir_fd == linux.AT_FDCWD else b"/proc/%d/fd/%d" % (tid, dir_fd)
        raise OSError(ENOENT if os.path.isdir(there) else ENOTDIR, "deleted, or never had a name")
    return base


def locate(
    path: bytes, pid: int, tid: int, follow: bool, may_follow: Callable[[bytes], bool] = lambda _: True
) -> Located:
    """What the absolute *path* names for thread *tid* of process *pid*; the last component is followed if *follow*.

    ``may_follow(link)`` tells whether the kernel would let that process through a magic link such as
    ``/proc/123/fd/4``: this process may be let through more of them.
    """
    if b"/proc" not in path:
        try:
            fd = linux.openat2(
                linux.AT_FDCWD, path, _OBJECT if follow else _OBJECT | os.O_NOFOLLOW, 0, linux.RESOLVE_NO_MAGICLINKS
            )
        except OSError as error:
            if error.errno not in (ENOENT, ELOOP):
                return Located(os.path.normpath(path), -1, error.errno or EINVAL)
            if error.errno == ENOENT and (missing := _missing(path)) is not None:
                return missing
        else:
            name = name_of(fd)
            if not name.startswith(b"/proc/"):
                if name.endswith(b" (deleted)") and os.fstat(fd).st_nlink == 0:
                    os.close(fd)
                    return Located(name[:-10], -1, ENOENT)
                return Located(name, fd)
            os.close(fd)
    return _walk(path, pid, tid, follow, may_follow)


def _missing(path: bytes) -> Located | None:
    """What is not there, from the last folder on the way that is; None where it takes a walk to say so."""
    folder, rest = path, b""
    while True:
        folder, _, name = folder.rpartition(b"/")
        if name in (b"", b".", b".."):
            return None
        try:
            held = linux.openat2(
                linux.AT_FDCWD, folder + b"/", _OBJECT | os.O_DIRECTORY, 0, linux.RESOLVE_NO_MAGICLINKS
            )
            break
        except FileNotFoundError:
            rest = b"/" + name + rest
        except OSError:
            return None
    try:
        parent = name_of(held)
        if parent.startswith(b"/proc/") or parent.endswith(b" (deleted)"):
            return None
        readlink(name, dir_fd=held)
    except FileNotFoundError:
        return Located(parent.rstrip(b"/") + b"/" + name + rest, -1, ENOENT, not rest)
    except OSError:
        pass
    finally:
        os.close(held)
    return None  # something has come to be there, or a link leads nowhere


def _walk(path: bytes, pid: int, tid: int, follow: bool, may_follow: Callable[[bytes], bool]) -> Located:
    todo = path.split(b"/")
    must_be_folder = path.endswith((b"/", b"/.", b"/.."))
    todo.reverse()
    here = b""
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not stat.S_ISDIR(os.lstat(here or b"/").st_mode):
                return Located(here, -1, ENOTDIR)
            here = here.rpartition(b"/")[0]
            continue
        there = here + b"/" + name
        last = not any(todo)
        try:
            target = readlink(there)
        except OSError as error:
            if error.errno == EINVAL:  # not a link
                here = there
                continue
            rest = b"".join(b"/" + part for part in reversed(todo) if part)
            creatable = last and error.errno == ENOENT and not must_be_folder
            return Located(os.path.normpath(there + rest), -1, error.errno or EINVAL, creatable)
        if last and not follow and not must_be_folder:
            here = there
            break
        links += 1
        if links > _LINKS:
            return Located(there, -1, ELOOP)
        if there == b"/proc/self":
            todo.append(b"%d" % pid)
            continue
        if there == b"/proc/thread-self":
            todo += (b"%d" % tid, b"task", b"%d" % pid)
            continue
        if there.startswith(b"/proc/") and there.split(b"/", 3)[2].isdigit():
            found = _through_magic(there) if may_follow(there) else Located(there, -1, EACCES)
            if found.fd < 0 or (last and not must_be_folder):
                return found
            if not _is_folder(found.fd):
                os.close(found.fd)
                return Located(found.path, -1, ENOTDIR)
            if last:
                return found
            os.close(found.fd)
            here = found.path.rstrip(b"/")
            continue
        if target.startswith(b"/"):
            here = b""
        if last and target.endswith((b"/", b"/.")):
            must_be_folder = True
        todo += reversed(target.split(b"/"))
    here = here or b"/"
    try:
        fd = linux.openat2(linux.AT_FDCWD, here, _OBJECT | os.O_NOFOLLOW, 0, linux.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        return Located(here, -1, error.errno or EINVAL, error.errno == ENOENT and not must_be_folder)
    if must_be_folder and not _is_folder(fd):
        os.close(fd)
        return Located(here, -1, ENOTDIR)
    # A folder of ``here`` may have become a link since it was looked at: the name of what was opened is what counts.
    return Located(name_of(fd), fd)


def _through_magic(link: bytes) -> Located:
    """The object behind a link that the kernel jumps through (``/proc/<pid>/fd/3``): never by its text, which may be
    stale.
    """
    try:
        fd = os.open(link, _OBJECT)
    except OSError as error:
        return Located(link, -1, error.errno or EINVAL)
    return Located(name_of(fd), fd)


def _is_folder(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def is_special(path: str) -> bool:
    """Whether the absolute *path* lies where devices and processes have their names, and no file can be made."""
    return path.startswith(("/dev/", "/proc/")) and not path.startswith("/dev/shm/")


def several_named(paths: Iterable[str], most: int = 5000) -> Iterator[tuple[str, os.stat_result]]:
    """The files that have more names than one (hard links): those of *paths*, and those in the folders among them, of
    which *most* entries are looked at. Symbolic links are not followed.
    """
    # Most are not there, and an exception takes longer. Where a container refuses the call, nothing seems to be there.
    asks = os.access("/", os.F_OK, follow_symlinks=False)
    for path in paths:
        try:
            if asks and not os.access(path, os.F_OK, follow_symlinks=False):
                continue
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode):
                if found.st_nlink > 1:
                    yield path, found
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    most -= 1
                    if most < 0:
                        return
                    if entry.is_file(follow_symlinks=False):
                        inside = entry.stat(follow_symlinks=False)
                        if inside.st_nlink > 1:
                            yield entry.path, inside
        except (OSError, ValueError):
            continue


def split(path: bytes) -> tuple[bytes, bytes]:
    """Folder and last component of a path to create, remove or rename; trailing slashes stay on the name."""
    stripped = path.rstrip(b"/")
    folder, _, name = stripped.rpartition(b"/")
    return folder + b"/", name + path[len(stripped) :]
