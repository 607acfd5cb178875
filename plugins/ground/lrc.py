"""Lyrics with times, as `.lrc` files hold them: lines, their text, and when their words are sung.

Pure functions; they know no files and no audio. Read are `[mm:ss.xx]` ahead of a line, several of
them where a line returns, `<mm:ss.xx>` ahead of words or syllables ("enhanced"), and
`[offset:+ms]`, by which everything is sung earlier. Other tags (`[ar:...]`), headers alone on a
line (`[Chorus]`) and blank lines are passed over.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from plugins.ground.errors import InputError

USUAL_PACE = 0.08
"""Seconds per character where the lines don't show it."""
MOST_RETURNS = 1000
"""Times ahead of one line."""
SLOWEST = 2.0
"""A line ends once it was sung so many times slower than usual; what is left is a pause."""

TIME = r"\s*(\d{1,4}):(\d{1,2})(?:[.:,](\d{1,6}))?\s*"
LINE_TAG = re.compile(rf"\[{TIME}\]\s*")
WORD_TAG = re.compile(rf"[<\[]{TIME}[>\]]")
OTHER_TAG = re.compile(r"\[\s*([^\s\d:<>\[\]][^:<>\[\]]*)?:(.*)\]")
HEADER = re.compile(r"\[(?!\s*\d+:)(?=[^\[\]]*[^\W\d_])[^\[\]]*\]")
OFFSET = re.compile(r"([+-]?\d{1,9}(?:\.\d{0,9})?)\s*(?:ms)?", re.IGNORECASE)
LIKE_A_TIME = re.compile(r"<\d+:[^<>\[\]]*>?|\[\d+:[\d:.,\s]*(?:\]|$)")
"""Inside of a line, where brackets may hold text too: `[5:30pm]`."""
LIKE_A_TIME_AHEAD = re.compile(r"^\[\s*\d[^\]]*\]?")
ANY_TIME = re.compile(r"[<\[]\s*\d+:[\d:.,\s]*[>\]]")
HAS_TIMES = re.compile(rf"^[^\S\n]*{WORD_TAG.pattern}|<{TIME}>", re.MULTILINE)

Pieces = tuple[tuple[float, str], ...]
"""From when on, in seconds, which part of a text is sung."""


@dataclass(frozen=True)
class Line:
    """One line, each time that it is sung."""

    start: float
    """Seconds."""
    text: str
    """Its words with a blank between them; "" where there is nothing but the end of the last."""
    pieces: Pieces
    """What is known inside of it: one piece where it has no tags inside; a last piece that is
    blank says when it ends."""


class TimedWord(NamedTuple):
    """A word and when it is sung, in seconds."""

    start: float
    end: float
    text: str


def parse_lrc(text: str, name: str) -> list[Line]:
    """The lines in the order in which they are sung; none if there are only other tags.

    Args:
        text: what the file holds.
        name: of the file, for messages.

    Raises:
        InputError: a line without a time, or with one that is none, as "name:line: ...".
    """
    lines: list[Line] = []
    offset = 0.0
    unix = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for number, written in enumerate(unix.split("\n"), start=1):
        rest = written.strip()
        starts = []
        try:
            while tag := LINE_TAG.match(rest):
                starts.append(_seconds(tag))
                rest = rest[tag.end() :]
                if len(starts) > MOST_RETURNS:
                    raise InputError(f"more than {MOST_RETURNS} times ahead of one line")
            if starts:
                pieces = _pieces(rest, starts[0])
                lines += [_line(start, pieces, start - starts[0]) for start in starts]
            elif other := OTHER_TAG.fullmatch(rest):
                if (other[1] or "").strip().lower() == "offset":
                    offset = _offset(other[2])
            elif rest and not HEADER.fullmatch(rest):
                _refuse_times(rest, LIKE_A_TIME_AHEAD)
                _refuse_times(rest)
                raise InputError(
                    f"no time ahead of {_short(rest)}: begin the line with one, as [01:23.45]; "
                    "lyrics without times belong into a .txt file"
                )
        except InputError as error:
            raise InputError(f"{name}:{number}: {error}") from error
    moved = (_line(line.start - offset, line.pieces, -offset) for line in lines)
    return sorted(moved, key=lambda line: line.start)


def plain_text(lines: Sequence[Line]) -> str:
    """The lyrics without times."""
    return "\n".join(line.text for line in lines).strip()


def without_times(text: str) -> str:
    """Text in which only some lines have times, or malformed ones, without them.

    Other tags and headers go too, as from lines with times; text that has none stays as it is.
    """
    if not HAS_TIMES.search(text):
        return text
    lines = (line.strip() for line in text.splitlines())
    sung = (line for line in lines if not (OTHER_TAG.fullmatch(line) or HEADER.fullmatch(line)))
    return "\n".join(" ".join(ANY_TIME.sub("", line).split()) for line in sung).strip()


def timed_words(lines: Sequence[Line]) -> list[TimedWord]:
    """When each word of `plain_text`, as white space separates them, is sung.

    Between times that are known, characters take equally long. A line lasts until the next one,
    unless that leaves it more than `SLOWEST` times what its characters usually take in this song.
    Lines of one time share it.
    """
    together = itertools.groupby(lines, key=lambda line: line.start)
    stretches = [_joined(alike) for _, alike in together]
    text = "".join(piece for stretch in stretches for _, piece in stretch)
    words = list(re.finditer(r"\S+", text))
    if not words:
        return []
    places, times = zip(*_forward(_knots(stretches)), strict=True)
    starts = np.interp([word.start() for word in words], places, times).tolist()
    ends = np.interp([word.end() for word in words], places, times).tolist()
    return [TimedWord(s, e, word.group()) for s, e, word in zip(starts, ends, words, strict=True)]


def _joined(lines: Iterable[Line]) -> Pieces:
    """Lines of one time as the pieces of one, each line ended by a newline."""
    joined: list[tuple[float, str]] = []
    for line in lines:
        *pieces, (last, end) = line.pieces
        for seconds, piece in [*pieces, (last, end + "\n")]:
            if joined and seconds <= joined[-1][0]:
                joined[-1] = (joined[-1][0], joined[-1][1] + piece)
            else:
                joined.append((seconds, piece))
    return tuple(joined)


def _knots(stretches: Sequence[Pieces]) -> Iterator[tuple[int, float]]:
    """Characters of the whole text whose times are known: where pieces begin and stretches end."""
    begins = [stretch[0][0] for stretch in stretches]
    texts = ["".join(piece for _, piece in stretch) for stretch in stretches]
    gaps = zip(np.diff(begins), texts, strict=False)
    pace = float(np.median([gap / len(text) for gap, text in gaps if text.strip()] or USUAL_PACE))
    place = 0
    for stretch, later in itertools.zip_longest(stretches, begins[1:]):
        for seconds, piece in stretch:
            yield place, seconds
            place += len(piece)
        usual = pace * len(piece)
        yield place - 1, seconds + usual if later is None else min(seconds + SLOWEST * usual, later)


def _forward(knots: Iterable[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """Those that go on in the text and not back in time."""
    last = (-1, -1.0)
    for knot in knots:
        if knot[0] > last[0] and knot[1] >= last[1]:
            yield knot
            last = knot


def _line(start: float, pieces: Pieces, later: float) -> Line:
    """A line of these pieces, which are so many seconds later; nothing is ahead of the music."""
    moved = tuple((max(0.0, seconds + later), piece) for seconds, piece in pieces)
    text = " ".join("".join(piece for _, piece in moved).split())
    return Line(max(0.0, start), text, moved)


def _pieces(line: str, start: float) -> Pieces:
    """What stands behind a line's own times, cut at the times inside.

    Raises:
        InputError: what looks like a time is none.
    """
    pieces, begin, place = [], start, 0
    for tag in WORD_TAG.finditer(line):
        pieces.append((begin, line[place : tag.start()]))
        begin, place = _seconds(tag), tag.end()
    pieces.append((begin, line[place:]))
    for _, piece in pieces:
        _refuse_times(piece)
    return tuple(pieces[1:] if len(pieces) > 1 and not pieces[0][1].strip() else pieces)


def _seconds(tag: "re.Match[str]") -> float:
    """The time in a tag."""
    minutes, seconds, fraction = tag.groups()
    if int(seconds) > 59:
        raise InputError(f"{tag.group().strip()} is no time: seconds go up to 59")
    return 60 * int(minutes) + float(f"{seconds}.{fraction or 0}")


def _offset(written: str) -> float:
    """Milliseconds as seconds."""
    written = written.strip()
    if not written:
        return 0.0
    if number := OFFSET.fullmatch(written):
        return float(number[1]) / 1000
    raise InputError(f"offset {_short(written)} is no number of milliseconds, as in [offset:+250]")


def _refuse_times(text: str, like: "re.Pattern[str]" = LIKE_A_TIME) -> None:
    """Refuse text in which something looks like a time that could not be read as one."""
    if found := like.search(text):
        raise InputError(
            f"{_short(found.group())} is no time: write minutes and seconds, as [01:23.45]"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "...")
