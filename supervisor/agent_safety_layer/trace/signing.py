"""Signatures over a trace's checkpoints and footer: Ed25519 (RFC 8032), with the extra ``sign``.

The digest in each of those lines covers every byte before it, so its signature proves all of them. What is signed is
``asl-trace-1``, a zero byte and the digest in hexadecimal.

The key is the file that ``ASL_TRACE_KEY`` names, or ``trace.key`` in the state folder, which no supervised tree can
read. Both PEM and OpenSSH files do; ``asl trace keygen`` makes one.
"""

from __future__ import annotations

import os

from agent_safety_layer.errors import TraceError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

BYTES = 64  # of a signature
_CONTEXT = b"asl-trace-1\0"


def signer(path: str) -> tuple[Callable[[str], bytes], str]:
    """What signs a digest given in hexadecimal, and the key's name. Raises ``TraceError`` when the key is no good."""
    key = _private(_read(path), path)
    return lambda digest: key.sign(_CONTEXT + digest.encode()), name_of(key.public_key())


class Checker:
    """Checks signatures with the public key in a file (or the public half of a private one)."""

    def __init__(self, path: str) -> None:
        self._key = _public(_read(path), path)
        self.name = name_of(self._key)

    def holds(self, digest: str, signature: bytes) -> bool:
        """Whether the key made this signature of the digest."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, _CONTEXT + digest.encode())
        except InvalidSignature:
            return False
        return True


def name_of(key: Ed25519PublicKey) -> str:
    """The key's name: the first half of the SHA-256 of its 32 bytes, in hexadecimal."""
    from hashlib import sha256

    return sha256(key.public_bytes_raw()).hexdigest()[:32]


def generate(path: str) -> str:
    """Make a key at *path* (PEM, 0600) and its public half at ``path.pub``; the key's name.

    Raises ``TraceError`` when there is something already.
    """
    _installed()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for name, data, mode in ((path, private, 0o600), (f"{path}.pub", public, 0o644)):
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        except OSError as error:
            remedy = "Choose another path; a key is never overwritten."
            raise TraceError(f"The key cannot be made: {error.strerror}.", file=name, remedy=remedy) from None
        with open(fd, "wb") as file:
            file.write(data)
    return name_of(key.public_key())


def _installed() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        wanted, remedy = "Signatures need the package cryptography", "pip install 'agent-safety-layer[sign]'"
        raise UnsupportedError(wanted, "it is not installed", remedy) from None


def _read(path: str) -> bytes:
    _installed()
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16)
    except OSError as error:
        remedy = "asl trace keygen makes one; its path goes into ASL_TRACE_KEY."
        raise TraceError(f"The key cannot be read: {error.strerror}.", file=path, remedy=remedy) from None


def _private(data: bytes, path: str) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    load = load_ssh_private_key if b"OPENSSH" in data else load_pem_private_key
    try:
        key = load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TraceError(f"Not a private key without a passphrase: {error}.", file=path) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise TraceError("Not an Ed25519 key.", file=path)
    return key


def _public(data: bytes, path: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    if b"PRIVATE KEY" in data:
        return _private(data, path).public_key()
    try:
        key = load_ssh_public_key(data) if data.startswith(b"ssh-") else load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TraceError(f"Not a public key: {error}.", file=path) from None
    if not isinstance(key, Ed25519PublicKey):
        raise TraceError("Not an Ed25519 key.", file=path)
    return key
