"""The Ed25519 key that signs the ledger's journal, as a file.

The private key is never in the database, in a log or in a record. Anyone who can write both the database and the key
file can write any history: keep the key apart from the database where that matters.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import sweep, write_bytes_atomically, write_new
from privacy_pipeline.files.bounded import read_bounded
from privacy_pipeline.files.file_rights import make_folders, refuse_if_others_may_change
from privacy_pipeline.ledger.storage.schema import LedgerError, sqlite_file
from privacy_pipeline.text.typed import quoted, typed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ENVIRONMENT = "PRIVACY_PIPELINE_LEDGER_KEY"
_FILE = "ledger_key.pem"
_LARGEST = 1 << 16  # bytes of a key file
_ROTATE = "privacy-pipeline budget rotate-key --lost (verify will report it from then on)"


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        hex: its 32 bytes, hexadecimal.
    """

    hex: str

    @property
    def id(self) -> str:
        """First 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(bytes.fromhex(self.hex)).hexdigest()[:16]

    def verifies(self, signature: str, message: bytes) -> bool:
        """Return whether the signature (hexadecimal) is this key's over the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.hex)).verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """A private key in memory."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return PublicKey(self.private.public_key().public_bytes_raw().hex())

    def sign(self, message: bytes) -> str:
        """Return the signature, hexadecimal."""
        return self.private.sign(message).hex()


def key_file(url: sa.URL) -> Path:
    """Return where the private key of a ledger is: named by the environment, else beside the SQLite file.

    Raises:
        LedgerError: a ledger that is not a file needs the environment variable.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    file = sqlite_file(url)
    if file is None:
        raise LedgerError(
            f"the key that signs this ledger is not known: {ENVIRONMENT} is not set",
            fix=f"export {ENVIRONMENT}=FILE (Ed25519 private key, PEM, readable by you alone)",
        )
    return file.parent / _FILE


def public_file(path: Path) -> Path:
    """Return the public copy beside a private key."""
    return path.with_suffix(".pub")


def successor_file(path: Path, key_id: str) -> Path:
    """Return where a rotation keeps the next key until the ledger has recorded it."""
    return path.with_name(f"{path.name}.{key_id}")


def load(path: Path, *, expected: str) -> SigningKey:
    """Return the private key that the ledger expects.

    Args:
        path: the key's file.
        expected: id of the key that may sign now.

    Raises:
        LedgerError: the file is missing, not an Ed25519 key, readable by others, or another key.
    """
    install(path, expected)  # if a rotation was killed after the ledger recorded the new key
    key = _read(path)
    if key.public.id != expected:
        raise LedgerError(
            f"{path} holds key {key.public.id}, but the ledger is signed by key {expected}; nothing was written",
            fix=f"point {ENVIRONMENT} to key {expected}; if it is lost: {_ROTATE}",
        )
    return key


def load_any(path: Path) -> SigningKey:
    """Return the private key in a file, whatever ledger expects it.

    Raises:
        LedgerError: the file is missing, not an Ed25519 key, or readable by others.
    """
    return _read(path)


def traces(url: sa.URL) -> list[Path]:
    """Return the files of a key that a ledger at this URL signs or signed with, private or public; empty if none."""
    if sqlite_file(url) is None and not os.environ.get(ENVIRONMENT):
        return []
    path = key_file(url)
    return [file for file in (path, public_file(path)) if file.exists()]


def first(path: Path, *, existing: bool) -> SigningKey:
    """Return the key of a new ledger. A new key waits beside its place until `install`, so that a crash leaves no key
    alone.

    A key that a killed registration left waiting is taken; it signed nothing that is left.

    Args:
        path: the key's file.
        existing: takes the key that is there instead of making one.

    Raises:
        LedgerError: the file cannot be written, or what is there is not a usable key.
    """
    if existing:
        key = _read(path)
        write_public(path, key.public)
        return key
    for left in waiting(path):  # by a registration that was killed before any ledger recorded the key
        if not left.stat().st_size:  # by an earlier version, which was killed before it wrote the key
            left.unlink()
            continue
        key = _read(left)
        if successor_file(path, key.public.id) == left:
            return key
    key = generate()
    store(successor_file(path, key.public.id), key)
    return key


def waiting(path: Path) -> list[Path]:
    """Return the keys beside a key's file that wait for their ledger to record them."""
    ids = re.compile(re.escape(f"{path.name}.") + "[0-9a-f]{16}")
    if not path.parent.is_dir():
        return []
    return sorted(file for file in path.parent.iterdir() if ids.fullmatch(file.name))


def generate() -> SigningKey:
    """Return a new key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SigningKey(Ed25519PrivateKey.generate())


def store(path: Path, key: SigningKey) -> None:
    """Write a key to a new file with rights 0600, whole or not at all; an existing one is never overwritten.

    Raises:
        LedgerError: the file exists or cannot be written.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    content = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        make_folders(path.parent)
        if not write_new(path=path, content=content):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    except OSError as error:
        raise LedgerError(f"key {path}: {error.strerror}", fix=f"set {ENVIRONMENT} to a file you can write") from error


def install(path: Path, key_id: str) -> None:
    """Put a successor in the place of the present key, if it is still waiting for that; its public copy first."""
    successor = successor_file(path, key_id)
    try:
        waiting_key = successor.open("rb")
    except FileNotFoundError:
        return
    with waiting_key:
        fcntl.flock(waiting_key, fcntl.LOCK_EX)
        if successor.exists():  # no other process was faster
            write_public(path, _read(successor).public)
            os.replace(successor, path)


def remove_unknown(path: Path, *, ledger: Path | None, known: str) -> None:
    """Remove the keys that killed registrations and rotations left beside a key's file: no ledger has recorded them.

    Call it only while the ledger's write lock is held: a process that makes a key holds that lock until the key is in
    the ledger. A key file that other ledgers may use is left alone, since a waiting key may belong to one of them.

    Args:
        path: the key's file.
        ledger: the SQLite file beside which it lies; None where it is another database.
        known: id of the key that the ledger has recorded.
    """
    if ledger is None or path.parent != ledger.parent or os.environ.get(ENVIRONMENT):
        return
    with suppress(PermissionError):  # of a folder that this user may use and not list
        if any(other != ledger for other in path.parent.glob(f"*{ledger.suffix}")):
            return
        sweep(path)
        for left in waiting(path):
            if left != successor_file(path, known):
                left.unlink(missing_ok=True)


def write_public(path: Path, public: PublicKey) -> None:
    """Write the public copy beside a private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    held = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public.hex))
    pem = held.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_bytes_atomically(path=public_file(path), content=pem)


def read_public(path: Path) -> PublicKey:
    """Return a public key from a PEM file.

    Raises:
        BadInputError: the file cannot be read, or holds no Ed25519 public key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_bounded(path, most=_LARGEST))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{path}: no public key in it: {error}", fix="give the ledger_key.pub file") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadInputError(f"{path} is not an Ed25519 public key", fix="give the ledger_key.pub file")
    return PublicKey(key.public_bytes_raw().hex())


def _read(path: Path) -> SigningKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise LedgerError(
                f"key {path} can be read or written by others (mode {mode:04o}); nothing was written",
                fix=f"chmod 600 {quoted(path)}; if others may have read it, rotate it: {typed('budget', 'rotate-key')}",
            )
        refuse_if_others_may_change(path, own=True)
        key = load_pem_private_key(read_bounded(path, most=_LARGEST), password=None)
    except OSError as error:
        raise LedgerError(
            f"key {path}: {error.strerror}; without it nothing can be written to the ledger",
            fix=f"restore it, or set {ENVIRONMENT}; if it is lost: {_ROTATE}",
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        message = f"key {path} is not a private key in PEM: {error}"
        raise LedgerError(message, fix=f"restore it, or {_ROTATE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerError(f"key {path} is not an Ed25519 key", fix=f"restore it, or {_ROTATE}")
    return SigningKey(key)
