"""Real music of any length, for whoever measures a codec: `examples/music`, over and over."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from codec.audio import read_audio

MUSIC = Path(__file__).parents[1] / "examples" / "music"
HELD_OUT = ("maxstack-by-product.ogg", "obsidian-shell-fear.ogg")
"""Tracks that no model of a benchmark is trained on."""


def music(seconds: float, rate: int) -> np.ndarray:
    """Float32 [samples], one channel."""
    return np.concatenate(list(blocks(seconds, rate)))


def blocks(seconds: float, rate: int) -> Iterator[np.ndarray]:
    """The same a track at a time, so that an hour need never be in memory."""
    wanted = round(seconds * rate)
    while wanted > 0:
        for path in sorted(MUSIC.glob("*.ogg")):
            block = _track(path, rate)[:wanted]
            yield block
            wanted -= len(block)
            if wanted <= 0:
                return


def _track(path: Path, rate: int) -> np.ndarray:
    return read_audio(path, rate, 1)[0]
