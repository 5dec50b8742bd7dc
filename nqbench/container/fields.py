"""The primitive fields of the container's header: LEB128 integers, strings, plain bytes.

Writing appends to a ``bytearray``; reading goes through a ``Fields`` that refuses to run past its end, so that no
count or length in a file is believed before the bytes that must follow it have been seen.
"""

from __future__ import annotations

import re
import struct

from nqbench.api import CorruptFile

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators, and what turns the direction of writing."""
WORD = re.compile(r"[A-Za-z0-9._+!?-]*")


def put_int(out: bytearray, value: int) -> None:
    """Unsigned LEB128: 7 bits a byte, lowest first, the top bit set on all bytes but the last."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_signed(out: bytearray, value: int) -> None:
    """Zigzag (0, -1, 1, -2, ... -> 0, 1, 2, 3, ...), then LEB128."""
    put_int(out, value << 1 if value >= 0 else (-value << 1) - 1)


def put_text(out: bytearray, text: str) -> None:
    """Length in bytes, then UTF-8."""
    data = text.encode()
    put_int(out, len(data))
    out += data


class Fields:
    """A cursor over untrusted bytes. Every method raises CorruptFile(section, offset) at their end."""

    def __init__(self, data: bytes, section: str = "header") -> None:
        self.data = data
        self.section = section
        self.at = 0

    def corrupt(self, reason: str, offset: int | None = None) -> CorruptFile:
        return CorruptFile(reason, section=self.section, offset=self.at if offset is None else offset)

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        start, end = self.at, self.at + size
        if end > len(self.data):
            raise self.corrupt(f"{size} bytes expected, {self.left} left")
        self.at = end
        return self.data[start:end]

    def uint(self, most: int = 2**63 - 1, what: str = "a number") -> int:
        """An unsigned integer of at most ``most``."""
        start, value = self.at, 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > most:
                    raise self.corrupt(f"{what} is {value}, at most {most} is possible", start)
                return value
        raise self.corrupt(f"{what} does not end", start)

    def signed(self) -> int:
        value = self.uint(2**64 - 1)
        return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)

    def text(self, most: int) -> str:
        """At most ``most`` bytes of UTF-8 that cannot break a line or steer a terminal."""
        start = self.at
        return self.decode(self.take(self.uint(most, "a length")), start)

    def decode(self, data: bytes, start: int) -> str:
        """``text`` of bytes that were taken already, from ``start`` on."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise self.corrupt("a text is not UTF-8", start) from None
        if CONTROL.search(text):
            raise self.corrupt("a text has control characters", start)
        return text

    def word(self) -> str:
        """A plugin's, a distribution's or a version's name; may be empty."""
        start = self.at
        text = self.text(256)
        if not WORD.fullmatch(text):
            raise self.corrupt("a name has other characters than letters, digits and ._-+!?", start)
        return text

    def float64(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])
