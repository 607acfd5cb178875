"""`lrc`: the times that somebody wrote down, line by line, and what follows for the words inside.

It knows `.lrc` texts, no audio and no codes.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from codec.tokens import TokenSpec
from conditioning.base import Aligner, Track, Word
from conditioning.words import NO_LYRICS, filled
from plugins.ground.errors import InputError
from plugins.ground.files import read_text
from plugins.ground.lrc import parse_lrc, timed_words

IN_BETWEEN = 0.5
"""Confidence in the time of a word that follows from those around it; of those that are written
down it is 1."""
ALIKE = 0.5
"""Share of the words of the lyrics that the times must have."""


class LrcConfig(BaseModel):
    """Where times are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    audio: Path | None = None
    """Folder of the music; a `.lrc` file beside a track's recording goes ahead of the text that
    the corpus has kept of one."""


class LrcAligner(Aligner):
    """Words between the line times of a `.lrc` file, as if the characters of a line were sung at
    one rate; words that have times of their own ("enhanced") keep them.
    """

    Config = LrcConfig
    config: LrcConfig

    def align(self, track: Track, spec: TokenSpec) -> list[Word] | str:
        """See `Aligner`; words of the lyrics that the times lack get confidence 0."""
        texts = str(track.get("lyrics") or "").split()
        if not texts:
            return NO_LYRICS
        try:
            written = self._written(track)
            if written is None:
                return f"it has no .lrc: not in the corpus, {self._beside()}"
            lines = parse_lrc(*written)
        except InputError as error:
            return str(error)
        given = {start for line in lines for start, _ in line.pieces}
        length = track["num_samples"] / spec.sample_rate
        timed = [
            Word(
                min(word.start, length),
                min(word.end, length),
                word.text,
                1.0 if word.start in given else IN_BETWEEN,
            )
            for word in timed_words(lines)
        ]
        found = matched(texts, timed)
        known = sum(one is not None for one in found)
        if known < ALIKE * len(texts):
            return f"{written[1]} has times for {known} of its {len(texts)} words only"
        return filled(texts, found)

    def _written(self, track: Track) -> tuple[str, str] | None:
        """The text of the track's `.lrc`, and what to call it in messages."""
        if self.config.audio and track["path"]:
            file = self.config.audio / Path(track["path"]).with_suffix(".lrc")
            if file.is_file():
                return read_text(file), str(file)
        kept = track.get("lrc")
        return (str(kept), "its .lrc") if kept else None

    def _beside(self) -> str:
        folder = self.config.audio
        return f"nor beside its recording in {folder}" if folder else "and --audio is not given"


def matched(texts: Sequence[str], timed: Sequence[Word]) -> list[Word | None]:
    """Of each text the timed word that it is, in order; None where there is none.

    Case and punctuation don't count, so that an edited text keeps its times.
    """
    ours, theirs = ([_plain(text) for text in words] for words in (texts, [w.text for w in timed]))
    found: list[Word | None] = [None] * len(texts)
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    for here, there, count in blocks:
        for offset in range(count):
            word = timed[there + offset]
            found[here + offset] = Word(word.start, word.end, texts[here + offset], word.confidence)
    return found


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold()) or text
