"""A trace's file, as it was written or compressed since (zstd, with the extra ``zstd``; Python 3.14 has it built in).

A compressed trace is what ``zstd`` makes and reads: frames one after the other. The last line is a frame of its own,
and a skippable frame behind it says where that begins, so that a run's ending is read without the rest:

    frame: all lines but the last      frame: the last line      skippable frame: the second one's place, 8 bytes
"""

from __future__ import annotations

import io
import os
from struct import pack, unpack
from typing import IO, TYPE_CHECKING, Any

from agent_safety_layer.errors import TraceError, UnsupportedError
from agent_safety_layer.trace.parts import COMPRESSED, SUFFIX, parts

if TYPE_CHECKING:
    from collections.abc import Callable

_MAGIC = b"\x28\xb5\x2f\xfd"
_PLACE = b"\x50\x2a\x4d\x18" + pack("<I", 8)  # RFC 8878, 3.1.2
_TAIL = 256 * 1024  # a footer is shorter
_LEVEL = 9


def open_trace(path: str | os.PathLike[str]) -> IO[bytes]:
    """The trace's lines as bytes, those of all its parts. Raises ``OSError``, and ``UnsupportedError`` when zstd is
    needed and missing.

    Reading what is damaged raises ``TraceError``.
    """
    first, *others = parts(os.fspath(path))
    if others:
        return io.BufferedReader(_Chain([first, *others]), 1 << 20)
    return _open_file(first)


class _Chain(io.RawIOBase):
    """Files as one, each opened when it is its turn."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths[1:]
        self._file = _open_file(paths[0])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (data := self._file.read(len(buffer))) and self._paths:
            self._file.close()
            self._file = _open_file(self._paths.pop(0))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _open_file(path: str) -> IO[bytes]:
    file = open(path, "rb")  # noqa: SIM115  # the caller's, or closed below
    try:
        compressed = file.read(4) == _MAGIC
        file.seek(0)
        return _decompressing(file) if compressed else file
    except BaseException:
        file.close()
        raise


def is_compressed(path: str) -> bool:
    """Whether the file is a compressed one."""
    with open(path, "rb") as file:
        return file.read(4) == _MAGIC


def last_line(path: str) -> bytes:
    """The trace's last line, in its last part, without reading the rest; part of it, or nothing, when that is too long
    for a footer."""
    return _last_line(parts(path)[-1])


def _last_line(path: str) -> bytes:
    """The file's last line without reading the rest; part of it, or nothing, when that is too long for a footer."""
    with open(path, "rb") as file:
        compressed = file.read(4) == _MAGIC
        size = file.seek(0, os.SEEK_END)
        if compressed:
            file.seek(max(0, size - 16))
            tail = file.read()
            if tail[:8] != _PLACE:
                return b""
            file.seek(min(unpack("<Q", tail[8:])[0], size))
            return _decompress(file.read()[:-16])
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    return tail[tail.rfind(b"\n", 0, -1) + 1 :]


def compress(path: str) -> str:
    """Compress a finished trace, or a part of one; the new path.

    The old file is gone once the new one is whole, on disk and equal.

    Raises ``TraceError`` when it cannot be done; then nothing has changed.
    """
    target = path.removesuffix(SUFFIX) + COMPRESSED
    scratch = f"{target}.{os.getpid()}"
    footer = _last_line(path)
    try:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as out, open(path, "rb") as source:
                rest = os.fstat(source.fileno()).st_size - len(footer)
                stream = _compressing()
                while rest and (chunk := source.read(min(rest, 1 << 20))):
                    rest -= len(chunk)
                    out.write(stream(chunk, False))
                out.write(stream(b"", True))
                place = out.tell()
                out.write(_compressing()(footer, True) + _PLACE + pack("<Q", place))
                out.flush()
                os.fsync(out.fileno())
            if not _equal(path, scratch):
                raise TraceError("The compressed trace is not equal to what it was made of.", file=path)
            old = os.stat(path)
            os.utime(scratch, ns=(old.st_atime_ns, old.st_mtime_ns))
            os.rename(scratch, target)
        except BaseException:
            os.unlink(scratch)
            raise
        os.unlink(path)
    except OSError as error:
        raise TraceError(f"The trace cannot be compressed: {error.strerror}.", file=path) from None
    return target


def _equal(path: str, compressed: str) -> bool:
    with open(path, "rb") as first, _open_file(compressed) as second:
        while True:
            chunk = first.read(1 << 20)
            if chunk != second.read(len(chunk) or 1):
                return False
            if not chunk:
                return True


class _Frames(io.RawIOBase):
    """What a decompressing stream gives, with its errors as ours."""

    def __init__(self, stream: Any, broken: type[Exception]) -> None:
        self._stream = stream
        self._broken = broken

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data: bytes = self._stream.read(len(buffer))
        except self._broken as error:
            raise TraceError(f"The compressed trace is damaged: {error}.") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _decompressing(file: IO[bytes]) -> IO[bytes]:
    try:
        from compression import zstd
    except ImportError:
        zstandard = _zstandard()
        stream: Any = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=True)
        return io.BufferedReader(_Frames(stream, zstandard.ZstdError), 1 << 20)
    return io.BufferedReader(_Frames(zstd.open(file, "rb"), zstd.ZstdError), 1 << 20)


def _decompress(data: bytes) -> bytes:
    with _decompressing(io.BytesIO(data)) as stream:
        return stream.read()


def _compressing() -> Callable[[bytes, bool], bytes]:
    """What compresses one frame piece by piece; the flag ends it."""
    try:
        from compression import zstd
    except ImportError:
        frame: Any = _zstandard().ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    else:
        frame = zstd.ZstdCompressor(level=_LEVEL)

    def piece(data: bytes, end: bool) -> bytes:
        out: bytes = frame.compress(data)
        return out + frame.flush() if end else out

    return piece


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        wanted, remedy = "Compressed traces need zstd", "pip install 'agent-safety-layer[zstd]'"
        raise UnsupportedError(wanted, "it is not installed", remedy) from None
    return zstandard
