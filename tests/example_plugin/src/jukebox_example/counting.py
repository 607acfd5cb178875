"""How often each code occurs in a corpus. It knows no audio. Shape: V a codebook's size."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.corpus import Corpus


@dataclass(frozen=True)
class Usage:
    """What a corpus uses of one codebook."""

    stream: str
    codes: int
    """How many there are in all tracks."""
    used: int
    """Entries that occur."""
    codebook: int
    """V, entries that there are."""
    bits: float
    """Entropy of a code drawn from the corpus."""

    @property
    def most_bits(self) -> float:
        """What the entropy would be if every entry occurred equally often."""
        return math.log2(self.codebook)


def code_usage(folder: Path | str) -> list[Usage]:
    """Of every stream, finest first.

    Raises:
        InputError: no corpus there, or a damaged one.
    """
    corpus = Corpus(folder)
    found = []
    for stream in corpus.spec.streams:
        counts = np.zeros(stream.vocab_size, np.int64)  # [V]
        for track in range(len(corpus)):
            counts += np.bincount(corpus.codes(track, stream.name), minlength=len(counts))
        shares = counts[counts > 0] / max(1, counts.sum())
        bits = float(-(shares * np.log2(shares)).sum())
        found.append(
            Usage(stream.name, int(counts.sum()), len(shares), stream.vocab_size, abs(bits))
        )
    return found
