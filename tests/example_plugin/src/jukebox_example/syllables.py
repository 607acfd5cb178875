"""`syllables`: words follow one another at an even pace, counted in syllables.

A straight line through the song, like the one of the published models, but a long syllable of many
letters takes no longer than a short one, and singers breathe at the end of a line. It hears
nothing, so it is a first guess, for where there is no model. It knows text and lengths, neither
audio nor codes.
"""

import re
import unicodedata

from pydantic import BaseModel, ConfigDict, Field

from codec.tokens import TokenSpec
from conditioning.base import Aligner, Track, Word

CONFIDENCE = 0.1
"""Of every word: it was placed, but nobody listened."""


class SyllablesConfig(BaseModel):
    """Where in the track the singing is, and how it breathes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intro: float = Field(0.0, ge=0)
    """Seconds ahead of the first word."""
    outro: float = Field(0.0, ge=0)
    """Seconds behind the last word."""
    breath: float = Field(1.0, ge=0)
    """Length of the pause between two lines, in syllables."""


class Syllables(Aligner):
    """Spreads words over a track so that every syllable is equally long."""

    Config = SyllablesConfig
    config: SyllablesConfig

    def align(self, track: Track, spec: TokenSpec) -> list[Word] | str:
        """See `Aligner`: words as white space separates them."""
        config, length = self.config, track["num_samples"] / spec.sample_rate
        lines = [line.split() for line in str(track.get("lyrics") or "").splitlines()]
        lines = [line for line in lines if line]
        if not lines:
            return "it has no lyrics"
        sung = length - config.intro - config.outro
        if sung <= 0:
            return f"intro and outro leave nothing of its {length:.2f} s"
        counts = [[syllables(word) for word in line] for line in lines]
        pace = sung / (sum(map(sum, counts)) + config.breath * (len(lines) - 1))
        words, at = [], config.intro
        for line, numbers in zip(lines, counts, strict=True):
            for text, number in zip(line, numbers, strict=True):
                words.append(Word(at, at + number * pace, text, CONFIDENCE))
                at += number * pace
            at += config.breath * pace
        return words


def syllables(word: str) -> int:
    """Groups of vowels; letters, where a word has none that are Latin; at least 1."""
    bare = (char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))
    groups = re.findall(r"[aeiouyæœø]+", "".join(bare).casefold())
    return len(groups) or max(1, sum(letter.isalpha() for letter in word))
