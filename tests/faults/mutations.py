"""Sound files made hostile: bytes, text and JSON, the same way for the same generator.

It does not know who reads them.
"""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63)
LARGEST = 1 << 20
"""Bytes of what comes out at most, but for text that is nested on purpose."""
ODD_TEXT = (
    *("\0", "\ufeff", "\u202e", "\U0001f3b5", "e\u0301", "\u2028", "\x1b[2J", "\r", "\x85"),
    *("<script>", "&amp;", '"', "'", "\\", "%s", "{}", "../", "//", "[", "]", "<", ">", ":", ","),
)
DEEP = 100_000
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 1 << 16, 1 << 31, -(1 << 31), 1 << 32, 1 << 63, 1 << 64),
    *(10**400, 0.5, -0.0, 1e308, -1e308, 1e-308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "\0", "\n", "0", "-1", "../../escaped", "/escaped", "C:\\escaped", "..", "."),
    *("\0.wav", "../escaped.wav", "..wav", f"{'a' * 300}.wav", "\ud800.wav", "\0.parquet"),
    *("\ud800", "a" * 5000, "\U0001f3b5" * 100, "nan", "true", "vqvae", "mp3"),
    *([], {}, [[]], [{}], {"": None}, [0] * 1000, [None], {"file": "x"}),
)

Bytes = Callable[[bytes, bytes, random.Random], bytes]


def spoiled(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three things wrong.

    Args:
        data: what is spoiled.
        other: another file, to take a piece of.
        rng: that decides.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(WAYS)(data, other, rng)[:LARGEST]
    return data


def _place(size: int, rng: random.Random) -> int:
    """Somewhere in a file, most often where headers and footers are."""
    near = min(size, 256)
    kind = rng.random()
    if kind < 0.4:
        return rng.randrange(near + 1)
    return size - rng.randrange(near + 1) if kind < 0.6 else rng.randrange(size + 1)


def _stretch(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(len(data), rng)
    length = rng.choice((1, 4, 16, 64, 256, 1024, len(data) // 2))
    return start, min(len(data), start + length)


def _flip(data: bytes, other: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = _place(len(found), rng)
        if place < len(found):
            found[place] ^= 1 << rng.randrange(8)
    return bytes(found)


def _cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: _place(len(data), rng)]


def _double(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, stop = _stretch(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 8)) + data[stop:]


def _remove(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, stop = _stretch(data, rng)
    return data[:start] + data[stop:]


def _zero(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, stop = _stretch(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def _noise(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, stop = _stretch(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def _extreme(data: bytes, other: bytes, rng: random.Random) -> bytes:
    size, order = rng.choice((2, 4, 4, 8)), rng.choice("<>")
    value = rng.choice(EXTREMES) % (1 << (8 * size))
    written = struct.pack(f"{order}{ {2: 'H', 4: 'I', 8: 'Q'}[size] }", value)
    place = _place(len(data), rng)
    return data[:place] + written + data[place + size :]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: _place(len(data), rng)] + other[_place(len(other), rng) :]


WAYS: tuple[Bytes, ...] = (
    *(_flip, _flip, _cut, _double, _remove, _zero, _noise, _extreme, _extreme, _splice),
)


def spoiled_text(text: str, other: str, rng: random.Random) -> bytes:
    """A text file with something wrong; sometimes no text at all any more."""
    kind = rng.random()
    if kind < 0.3:
        return spoiled(text.encode(), other.encode(), rng)
    if kind < 0.36:
        start = rng.randrange(len(text) + 1)
        opened = rng.choice(("[", "{", '{"a":', "(", "<", "[[", '"', "a.")) * DEEP
        return (text[:start] + opened + text[start:]).encode()
    for _ in range(rng.choice((1, 1, 2, 5))):
        start = rng.randrange(len(text) + 1)
        odd = rng.choice(ODD_TEXT) * rng.choice((1, 1, 1, 3, 10_000))
        text = text[:start] + odd + text[start + rng.choice((0, 0, 1, 20)) :]
    lines = text.split("\n")
    if rng.random() < 0.3:
        rng.shuffle(lines)
    return rng.choice(("\n", "\n", "\r\n", "\r", "\n\n")).join(lines).encode("utf-8")


def spoiled_json(text: str, other: str, rng: random.Random) -> bytes:
    """A JSON file with something wrong: most often one value, since that is read the furthest."""
    if rng.random() < 0.25:
        return spoiled_text(text, other, rng)
    content = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = _replaced(content, rng)
    return json.dumps(content).encode()


def _replaced(content: Any, rng: random.Random) -> Any:
    """The content with one value of it replaced, doubled under another name, or gone."""
    places = list(_places(content))
    if not places:
        return rng.choice(ODD_VALUES)
    holder, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.2:
        del holder[key]
    elif kind < 0.3:
        if isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[f"{key}{rng.choice(('', '_', ' ', '2'))}"] = holder[key]
    elif kind < 0.4:
        other_holder, other_key = rng.choice(places)
        holder[key] = json.loads(json.dumps(other_holder[other_key]))
    else:
        holder[key] = rng.choice(ODD_VALUES)
    return content


def _places(content: Any) -> Any:
    """Every (dictionary or list, key) of nested JSON."""
    if isinstance(content, dict | list):
        keys = list(content) if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield content, key
            yield from _places(content[key])
