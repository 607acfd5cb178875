"""Token corpora with something to learn: melodies of codes, two streams, two artists."""

from pathlib import Path

import numpy as np

from codec.corpus import Corpus, CorpusWriter
from codec.tokens import TokenSpec, TokenStream

SPEC = TokenSpec(
    sample_rate=800,
    channels=1,
    streams=(
        TokenStream(name="0", vocab_size=24, hop_length=8),
        TokenStream(name="1", vocab_size=12, hop_length=32),
    ),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
RATIO = 4
TINY = {"context": 32, "width": 32, "depth": 3, "heads": 2, "blocks": 4}
TINY_CODES = {"codes.width": 8, "codes.depth": 2, "codes.dilation_cycle": 2}


def make_corpus(
    folder: Path, lengths: tuple[int, ...] = (80, 64, 48, 96), artists: tuple[str, ...] = ("a", "b")
) -> Corpus:
    """Tracks of so many coarse codes: a scale up or down by artist, with a slip now and then."""
    rng = np.random.default_rng(0)
    rows = []
    for number, length in enumerate(lengths):
        step = 1 if number % 2 else 5
        coarse = (np.arange(length) * step + rng.integers(12)) % 12
        coarse = np.where(rng.random(length) < 0.1, rng.integers(0, 12, length), coarse)
        fine = np.repeat(coarse, RATIO) * 2 + np.tile(np.arange(RATIO) % 2, length)
        rows.append(
            {
                "id": f"track-{number}",
                "path": f"track-{number}.wav",
                "num_samples": length * 32 + 5,
                "artist": artists[number % len(artists)],
                "genre": "scales",
                "codes_0": fine.astype(np.uint16),
                "codes_1": coarse.astype(np.uint16),
            }
        )
    CorpusWriter(folder, SPEC, settings={}).append(rows)
    return Corpus(folder)
