"""Where in a tar file which member stands, read from its headers alone.

A picture is then one read at an offset. Python's tarfile keeps an object a member and finds some 25,000 a second;
webdataset has no random access and reads every byte.
"""

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

BLOCK = 512
CHUNK = 2**20
_NOTHING = bytes(BLOCK)

Buffer = bytes | mmap
"""A tar file in memory, or mapped into it."""


class Member(NamedTuple):
    """A file in the tar file: where its first header starts, and where its bytes are."""

    name: str
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header is."""
        return self.data + _padded(self.size)


class TarDamage(ValueError):
    """Not a tar file, or one that was cut or changed; says at which byte."""


def members(content: Buffer) -> Iterator[Member]:
    """The files in a tar file, or in a part of one that begins at a header; ends at its end mark or with the bytes.

    Reads ustar, GNU and PAX names and sizes. Folders, links and devices are passed over.

    Raises:
        TarDamage: a header that is none, a member cut short, or more after the end mark.
    """
    at = start = 0
    given: dict[str, str] = {}
    while at < len(content):
        header = content[at : at + BLOCK]
        if header == _NOTHING:
            for more in range(at, len(content), CHUNK):
                if content[more : more + CHUNK].strip(b"\0"):
                    raise TarDamage(f"more after the end mark at byte {at}, as where tar files were put into one")
            return
        if len(header) < BLOCK:
            raise TarDamage(f"cut inside a header, at byte {at + len(header)}")
        if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise TarDamage("not a tar file" if at == 0 else f"damaged: no header at byte {at}, where one should be")
        kind, data = header[156:157], at + BLOCK
        size = int(given.get("size", 0)) or _number(header[124:136])
        if data + size > len(content):
            raise TarDamage(f"cut at byte {len(content)}, inside a member that ends at byte {data + size}")
        at = data + _padded(size)
        if kind == b"x":
            given |= _records(content[data : data + size])
        elif kind == b"L":
            given["path"] = _text(content[data : data + size])
        elif kind not in (b"g", b"K"):
            if kind in (b"\0", b"0", b"7"):
                yield Member(given.get("path") or _name(header), start, data, size)
            start, given = at, {}


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _octal(field: bytes) -> int:
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _number(field: bytes) -> int:
    # Sizes from 8 GiB stand in base 256, with the first bit set.
    return int.from_bytes(field[1:], "big") if field[0] & 0x80 else _octal(field)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(header[:100])}" if prefix else _text(header[:100])


def _records(content: bytes) -> dict[str, str]:
    """PAX records, each 'length key=value' and a line's end."""
    found = {}
    while content:
        length = _decimal(content.split(b" ", 1)[0])
        if not 0 < length <= len(content):
            raise TarDamage("damaged: an extended header that cannot be read")
        key, _, value = content[:length].rstrip(b"\n").split(b" ", 1)[-1].partition(b"=")
        found[_text(key)] = _text(value)
        content = content[length:]
    return found


def _decimal(field: bytes) -> int:
    return int(field) if field.isdigit() else 0
