"""Which windows are sampled, what each already knows, and the uniforms it draws with.

Pure functions of numbers; no network, no labels, no files (paper section 4.4: ancestral, windowed
and primed sampling are the same plan with other starting points).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """One window. Codes `[start, known)` are its prompt, `[known, stop)` are new."""

    start: int
    known: int
    stop: int


def window_starts(total: int, context: int, hop: int) -> list[int]:
    """Starts of the windows that cover `total` codes: every `hop`, the last one flush at the end.

    Args:
        total: codes of the whole level.
        context: codes of a window; a shorter level is one window from 0.
        hop: codes from one start to the next, 1 to `context`.
    """
    last = max(0, total - context)
    return [*range(0, last, hop), last]


def window_hop(context: int, fraction: float, align: int) -> int:
    """Codes from one window to the next: a fraction of the context, in whole steps of `align`."""
    return max(1, int(fraction * context) // align) * align


def steps(total: int, context: int, hop: int, done: int) -> Iterator[Step]:
    """The windows that are still to be sampled when `done` codes are there.

    A prompt is simply `done` codes: windows that lie in it are passed over, and the first one
    that reaches beyond it sees as much of it as fits.
    """
    for start in window_starts(total, context, hop):
        stop = min(start + context, total)
        if stop > done:
            yield Step(start, done, stop)
            done = stop


def code_count(samples: int, hop_length: int, coarsest_hop: int) -> int:
    """Codes of a stream that cover `samples`, so that all streams end at the same sample."""
    return -(-samples // coarsest_hop) * (coarsest_hop // hop_length)


def uniforms(seed: int, item: int, level: int, start: int, stop: int) -> np.ndarray:
    """The uniforms of positions `[start, stop)`, [stop - start] float64 in [0, 1).

    A function of (seed, item, level, position) alone: batch size, resuming and the choice of
    levels in one call can't change a draw. Philox is counter-based, so any position is reached
    without drawing those before it; a counter gives four numbers.
    """
    key = np.random.SeedSequence([seed, item, level]).generate_state(2, np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key).advance(start // 4))
    skipped = start % 4
    return generator.random(skipped + stop - start)[skipped:]
