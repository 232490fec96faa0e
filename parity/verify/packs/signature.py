"""Who stands behind a pack or a report: Ed25519 (RFC 8032) over the canonical JSON of what is signed.

Hashes show that a file was not damaged; a signature also shows who made it. Keys are made and kept by other programs
(`openssl genpkey -algorithm ed25519 -out key.pem`); a public key is named by its 32 bytes in hex. Needs the package
`cryptography`, from the extra `sign`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from ...core.errors import FormatError, HashMismatch, UsageError
from .container import canonical_json

log = logging.getLogger("parity")
_WITHOUT = "signatures need the package `cryptography`: pip install 'parity-llm[sign]'"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signature as it is kept: both in hex."""

    public_key: str
    signature: str
    algorithm: str = "ed25519"


class Signer:
    """Signs with a private key.

    Args:
        path: a PEM file of an Ed25519 key without a password.

    Raises:
        UsageError: there is no such file, or it holds another thing; or `cryptography` is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError:
            raise UsageError(_WITHOUT) from None
        make = "make one with `openssl genpkey -algorithm ed25519 -out key.pem`"
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise UsageError(f"cannot read the key {path}: {error.strerror}; {make}") from None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} holds no private key without a password ({error}); {make}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{path} holds another kind of key than Ed25519; {make}")
        self._key = key
        self.public_key = key.public_key().public_bytes_raw().hex()

    def sign(self, value: Any) -> Signature:
        """The signature of a JSON value."""
        return Signature(self.public_key, self._key.sign(canonical_json(value)).hex())


def read_signature(value: Any, what: str) -> Signature:
    """A signature from JSON.

    Raises:
        FormatError: it is none.
    """
    try:
        found = msgspec.convert(value, Signature)
        sizes = len(bytes.fromhex(found.public_key)), len(bytes.fromhex(found.signature))
    except (msgspec.ValidationError, ValueError) as error:
        raise FormatError(f"the signature of {what} cannot be read: {error}") from None
    if found.algorithm != "ed25519" or sizes != (32, 64):
        raise FormatError(f"the signature of {what} is not one of ed25519")
    return found


def check(found: Signature, value: Any, what: str) -> bool:
    """Whether the signature was checked; False, and said once in the log, where `cryptography` is not installed.

    Raises:
        HashMismatch: it is not the signature of this value by this key.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        log.warning("the signature of %s was not checked: %s", what, _WITHOUT)
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.public_key))
        key.verify(bytes.fromhex(found.signature), canonical_json(value))
    except (InvalidSignature, ValueError):
        raise HashMismatch(f"{what} was changed after it was signed, or its signature is of another key") from None
    return True


def require(signed_by: str | None, wanted: str, what: str) -> None:
    """Refuses what is not signed by the key that is trusted.

    Raises:
        UsageError: it is signed by nobody, or by another key.
    """
    if signed_by is None:
        raise UsageError(f"{what} is not signed, or its signature could not be checked, and --signed-by asks for {wanted}")
    if signed_by != wanted.lower():
        raise UsageError(f"{what} is signed by {signed_by}, not by {wanted}")
