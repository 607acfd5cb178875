"""Where a prior looks in the lyrics while it hears a track: attention of its heads, by frames.

It knows priors, windows and codes, no words. Shapes: T codes of a window, S tokens of a window's
lyrics, F frames of a track, C tokens of its whole lyrics, H heads of a layer, N heads of all layers
that are looked at.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch

from conditioning.base import Conditioner, LyricsReader, Track, Window
from prior.data import stack, window_alignment
from prior.plan import window_hop
from prior.prior import Prior

FRAME_SECONDS = 0.025
"""Codes are pooled to frames about as long, so that whole songs fit."""
MEMORY, PREFIX = ("memory",), ("prefix", "dense")
"""Patterns of layers in which a query sees all of a memory, or all of a prefix."""
AT_ONCE = 1 << 28
"""Attention weights that may be held while a window is looked at; more layers take more passes."""


class Head(NamedTuple):
    """One head of one layer, both from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"layer {self.layer}, head {self.head}"


@dataclass(frozen=True)
class Stretch:
    """What the codes that are new to a window look at."""

    frames: np.ndarray
    """[f] their frames, in order; the first may have begun in the stretch before."""
    codes: np.ndarray
    """[f] how many of them each frame has."""
    weights: np.ndarray
    """[N, f, S'] float32, sums over a frame's codes."""
    indices: np.ndarray
    """[S'] int64, the tokens of the track's lyrics that the window holds, without padding."""


@dataclass(frozen=True)
class Looks:
    """What a track's codes look at."""

    heads: Sequence[Head]
    stretches: Sequence[Stretch]
    tokens: int
    """C."""
    seconds: float
    """Of a frame."""
    length: float
    """Of the track, in seconds."""

    def mixed(self, shares: Mapping[Head, float]) -> tuple[np.ndarray, float]:
        """Attention of heads by frames, and what each token would get of it if all got the same.

        A token's column is what goes to the position behind its own, the first that knows of it:
        lyrics are read causally, each position from the tokens before it. The last token shares
        the column of the one before.

        Args:
            shares: of the heads in the mixture.

        Returns:
            [F, C] float32, 0 where a window lacks a token; and the mean over the frames of what
            goes to lyrics, by the tokens that a window holds.
        """
        numbers = [self.heads.index(head) for head in shares]
        parts = np.array([*shares.values()], np.float32)
        seen = np.zeros((self.cuts[-1], self.tokens), np.float32)
        codes = np.zeros(self.cuts[-1], np.float32)
        even = 0.0
        for stretch in self.stretches:
            weights = np.tensordot(parts, stretch.weights[numbers], 1)
            seen[stretch.frames[:, None], stretch.indices] += weights
            codes[stretch.frames] += stretch.codes
            even += float(weights.sum()) / max(1, len(stretch.indices))
        behind = np.concatenate([seen[:, 1:], seen[:, -1:]], 1)
        return behind / codes[:, None], even / float(codes.sum())

    @property
    def cuts(self) -> list[int]:
        """The frames at which stretches begin, and behind the last."""
        return [int(s.frames[0]) for s in self.stretches] + [int(self.stretches[-1].frames[-1]) + 1]


@dataclass(frozen=True)
class Reading:
    """A conditioner that reads lyrics, and how a prior's layers see what it read."""

    reader: LyricsReader
    patterns: tuple[str, ...]
    """Of the layers that look at it."""
    columns: slice
    """Its positions among their keys."""


def readings(prior: Prior) -> Iterator[Reading]:
    """Every conditioner of a prior that gives it lyrics to look at."""
    memory = prefix = 0
    for conditioner in cast(Iterable[Conditioner], prior.conditioners.values()):
        provided = conditioner.provides
        if isinstance(conditioner, LyricsReader) and provided.memory:
            yield Reading(conditioner, MEMORY, slice(memory, memory + provided.memory))
        if isinstance(conditioner, LyricsReader) and provided.prefix:
            yield Reading(conditioner, PREFIX, slice(prefix, prefix + provided.prefix))
        memory, prefix = memory + provided.memory, prefix + provided.prefix


def look(
    prior: Prior, reading: Reading, track: Track, heads: Sequence[Head], hop: float, total: int
) -> Looks:
    """Attention of all of a track's codes on its lyrics, a window at a time.

    Args:
        prior: that has these heads.
        reading: of the lyrics.
        track: a row of a corpus, with codes.
        heads: N, in order.
        hop: from one window to the next, over the context; each adds the codes that are new to it.
        total: length of the whole song, in audio samples.
    """
    shape = prior.config
    stream, rate = shape.spec.stream(shape.stream), shape.spec.sample_rate
    pooled = max(1, round(FRAME_SECONDS * rate / stream.hop_length))
    codes = np.asarray(track[f"codes_{shape.stream}"], np.int64)
    stretches = []
    for start, first, stop in _windows(prior, len(codes), hop):
        window = Window(start, total)
        indices = np.array(reading.reader.excerpt(track, window).indices, np.int64)
        there = indices >= 0
        weights = attention(prior, reading, track, window, codes[start:stop], heads)
        numbers = np.arange(first, stop) // pooled
        begins = np.flatnonzero(np.diff(numbers, prepend=-1))
        sums = np.add.reduceat(weights[:, first - start :, there], begins, axis=1)
        counts = np.diff(begins, append=len(numbers))
        stretches.append(Stretch(numbers[begins], counts, sums, indices[there]))
    tokens = len(reading.reader.excerpt(track, Window(0, total)).sources)
    length = min(track["num_samples"], len(codes) * stream.hop_length) / rate
    return Looks(heads, stretches, tokens, pooled * stream.hop_length / rate, length)


def _windows(prior: Prior, count: int, hop_fraction: float) -> Iterator[tuple[int, int, int]]:
    """Windows over so many codes: start, the first code that is new, the one behind the last.

    Later windows bring the codes for which they have more context than earlier ones.
    """
    align, context = window_alignment(prior.site), prior.config.context
    hop = window_hop(context, hop_fraction, align)
    done, start = 0, 0
    while done < count:
        stop = min(count, start + context)
        yield start, done, stop
        done = stop
        # The last window lies at the end, as far back as the context reaches.
        last = max(0, -(-(count - context) // align) * align)
        start = min(start + hop, last)


def attention(
    prior: Prior,
    reading: Reading,
    track: Track,
    window: Window,
    codes: np.ndarray,
    heads: Sequence[Head],
) -> np.ndarray:
    """Where the codes of a window look in its lyrics.

    Args:
        prior: that has these heads.
        reading: of the lyrics.
        track: a row of a corpus.
        window: from its first code on.
        codes: the track's from there, [T] int64, at most a context.
        heads: N, in order.

    Returns:
        [N, T, S] float32; they sum to less than 1 over the lyrics where a layer sees other things
        as well.
    """
    device = next(prior.parameters()).device
    given = torch.from_numpy(codes)[None].to(device)
    layers = sorted({head.layer for head in heads})
    made = []
    with torch.inference_mode():
        condition = prior.condition(stack([prior.prepare(track, window)], device))
        each = (
            prior.config.heads
            * (len(codes) + prior.prefix)
            * (len(codes) + prior.prefix if reading.patterns == PREFIX else reading.columns.stop)
        )
        some = max(1, AT_ONCE // each)
        for first in range(0, len(layers), some):
            record = layers[first : first + some]
            seen = prior(given, condition, record=record, upto=record[-1]).attention
            for layer in record:
                wanted = [head.head for head in heads if head.layer == layer]
                weights = seen[layer][0, wanted, -len(codes) :, reading.columns]
                made.append(weights.float().cpu().numpy())
    return np.concatenate(made)
