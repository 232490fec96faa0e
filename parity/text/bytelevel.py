"""The byte alphabet of byte-level BPE: each byte has one printable character (GPT-2, section 2.2 of its paper)."""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_SHIFTED = [byte for byte in range(256) if byte not in _PRINTABLE]

CHARACTER_OF_BYTE: dict[int, str] = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + position) for position, byte in enumerate(_SHIFTED)
}
BYTE_OF_CHARACTER: dict[str, int] = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def to_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for.

    Raises:
        KeyError: the token has a character outside the alphabet.
    """
    return bytes([BYTE_OF_CHARACTER[character] for character in token])


def from_bytes(data: bytes) -> str:
    """The byte-level spelling of some bytes."""
    return "".join([CHARACTER_OF_BYTE[byte] for byte in data])
