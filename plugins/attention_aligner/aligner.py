"""`attention`: words are sung where a lyric-reading layer of a prior looks at them.

A prior that was trained with lyrics learns to attend to the characters that are being sung (paper
section 4.3 and figure 4). It knows priors and codes, no audio. Shapes: T codes of a window,
S characters of a window's lyrics, F frames of a track, C characters of its whole lyrics, H heads.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from codec.tokens import TokenSpec
from conditioning.base import Aligner, Conditioner, Track, Window, Word
from conditioning.lyrics import LyricsMemory, LyricsPrefix
from plugins.attention_aligner.path import sung_words
from plugins.attention_aligner.times import timed_words, word_places
from plugins.ground.device import Precision, pick_device, pick_dtype
from plugins.ground.errors import InputError
from plugins.ground.model import prior_of
from prior.checkpoint import load_prior, read_config
from prior.config import PriorConfig
from prior.data import stack, window_alignment
from prior.plan import window_hop
from prior.prior import Prior

FRAME_SECONDS = 0.025
"""Codes are pooled to frames about as long, so that whole songs fit."""
PUBLISHED = {("memory", 79): (68, 2), ("prefix", 72): (63, 0)}
"""What lyric layers read and depth of the published priors -> the layer and head that follow the
singing best in 5b_lyrics and 1b_lyrics."""


class AttentionAlignerConfig(BaseModel):
    """Whose attention is read, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    """Folder with a prior that reads lyrics, prior_<stream>/."""
    stream: str | None = None
    """Of the prior; None: the coarsest that there is."""
    layer: int | None = None
    """From 0; None: the published one in published shapes, else the last that reads lyrics."""
    head: int | None = None
    """From 0; None: the published one in published shapes, else for each track the one that goes
    through the lyrics most steadily."""
    device: str = "auto"
    dtype: Precision = "float32"
    hop_fraction: float = Field(0.5, gt=0, le=1)
    """From one window to the next, over the context; each adds the codes that are new to it."""
    total_seconds: float | None = Field(None, gt=0)
    """Length of the whole song where the track is a part of it; None: the track's own."""


class AttentionAligner(Aligner):
    """Reads the times of words off one head of a lyric-reading layer.

    Raises:
        InputError: the model has no prior that reads lyrics, or it has no such layer or head.
    """

    Config = AttentionAlignerConfig
    config: AttentionAlignerConfig

    def __init__(self, config: AttentionAlignerConfig) -> None:
        super().__init__(config)
        self.folder = prior_of(config.model, config.stream)
        shape = read_config(self.folder)
        self.layer, self.head = self._choose(shape)
        device = pick_device(config.device)
        dtype = pick_dtype(config.dtype, device)
        self.prior = load_prior(self.folder, device, dtype, layers=self.layer + 1)
        self.device = device
        self.lyrics, self.columns = _lyric_columns(self.prior, shape.pattern_of(self.layer))

    def align(self, track: Track, spec: TokenSpec) -> list[Word] | str:
        """See `Aligner`: words as white space separates them; those not found get confidence 0."""
        shape = self.prior.config
        shape.spec.require(spec, str(self.folder), "the corpus")
        text = str(track.get("lyrics") or "")
        if not text.strip():
            return "it has no lyrics"
        if not len(track[f"codes_{shape.stream}"]):
            return f"it has no codes of stream {shape.stream}"
        sources = self.lyrics.excerpt(track, Window(0, track["num_samples"])).sources
        places = word_places(text, sources)
        if all(start == stop for start, stop in places):
            return "its lyrics have no character that the prior reads"
        seen = self._look(track, len(sources))
        sung = sung_words(seen.attention, seen.even, places)
        if not any(sung):
            return f"layer {self.layer} of the prior follows none of its words"
        return timed_words(text.split(), sung, seen.seconds, seen.length)

    def _choose(self, shape: PriorConfig) -> tuple[int, int | None]:
        """The layer and head to read; no head: the best of all."""
        kinds = {"lyrics_memory": ("memory",), "lyrics_prefix": ("prefix", "dense")}
        names = [record.name for record in shape.conditioners]
        reading = [kind for name in names for kind in kinds.get(name, ())]
        able = [layer for layer in range(shape.depth) if shape.pattern_of(layer) in reading]
        if not able:
            raise InputError(
                f"{self.folder} reads no lyrics (it is told {', '.join(names) or 'nothing'}): "
                "give a model whose prior does"
            )
        # A dense layer looks at codes too, so it is only read where it is asked for.
        made = [layer for layer in able if shape.pattern_of(layer) == reading[0]] or able
        usual, best = PUBLISHED.get((reading[0], shape.depth), (made[-1], None))
        if usual not in made or (best or 0) >= shape.heads:
            usual, best = made[-1], None
        layer = usual if self.config.layer is None else self.config.layer
        if layer not in able:
            raise InputError(
                f"layer {layer} of {self.folder} reads no lyrics; there are: "
                f"{', '.join(map(str, able))}"
            )
        head = self.config.head if self.config.head is not None or layer != usual else best
        if head is not None and not 0 <= head < shape.heads:
            raise InputError(
                f"no head {head} in {self.folder}: layer {layer} has heads 0 to {shape.heads - 1}"
            )
        return layer, head

    def _look(self, track: Track, characters: int) -> "_Seen":
        """Attention of all of a track's codes on its lyrics, a window at a time, by the best head.

        Holds the attention of all heads on the whole lyrics, if it is to choose among them.
        """
        shape = self.prior.config
        hop, rate = shape.spec.stream(shape.stream).hop_length, shape.spec.sample_rate
        pooled = max(1, round(FRAME_SECONDS * rate / hop))
        codes = np.asarray(track[f"codes_{shape.stream}"], np.int64)
        frames = -(-len(codes) // pooled)
        heads = shape.heads if self.head is None else 1
        attention = np.zeros((heads, frames, characters), np.float32)
        even = np.zeros((heads, frames), np.float32)
        total = max(track["num_samples"], round((self.config.total_seconds or 0) * rate))
        counts, steady = np.zeros(frames, np.float32), np.zeros(heads)
        for start, first, stop in self._windows(len(codes)):
            window = Window(start, total)
            weights = self.attention(track, window, codes[start:stop])
            indices = np.array(self.lyrics.excerpt(track, window).indices)
            there = indices >= 0
            steady += (stop - start) * _steadiness(weights[:, :, there])
            weights = weights[:, first - start :]
            numbers = np.arange(first, stop) // pooled
            begins = np.flatnonzero(np.diff(numbers, prepend=-1))
            sums = np.add.reduceat(weights, begins, axis=1)
            attention[:, numbers[begins, None], indices[there]] += sums[:, :, there]
            even[:, numbers[begins]] += sums.mean(2)
            counts[numbers[begins]] += np.diff(begins, append=len(numbers))
        head = int(steady.argmax())
        length = min(track["num_samples"], len(codes) * hop) / rate
        seen = attention[head] / counts[:, None]
        return _Seen(seen, even[head] / counts, pooled * hop / rate, length)

    def _windows(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Windows over so many codes: start, the first code that is new, the one behind the last.

        Later windows bring the codes for which they have more context than earlier ones.
        """
        align, context = window_alignment(self.prior.site), self.prior.config.context
        hop = window_hop(context, self.config.hop_fraction, align)
        done, start = 0, 0
        while done < count:
            stop = min(count, start + context)
            yield start, done, stop
            done = stop
            # The last window lies at the end, as far back as the context reaches.
            last = max(0, -(-(count - context) // align) * align)
            start = min(start + hop, last)

    def attention(self, track: Track, window: Window, codes: np.ndarray) -> np.ndarray:
        """Where the codes of a window look in its lyrics.

        Args:
            track: a row of a corpus.
            window: from its first code on.
            codes: the track's from there, [T] int64, at most a context.

        Returns:
            Weights of the layer's head, or of all heads, [H, T, S] float32; they sum to less than
            1 over the lyrics where the layer sees other things as well.
        """
        batch = stack([self.prior.prepare(track, window)], self.device)
        with torch.inference_mode():
            output = self.prior(
                torch.from_numpy(codes)[None].to(self.device),
                self.prior.condition(batch),
                record=[self.layer],
                upto=self.layer,
            )
        weights = output.attention[self.layer][0, :, -len(codes) :, self.columns]
        if self.head is not None:
            weights = weights[self.head : self.head + 1]
        return weights.float().cpu().numpy()


@dataclass(frozen=True)
class _Seen:
    """What a track's codes looked at."""

    attention: np.ndarray  # [F, C]
    even: np.ndarray  # [F], on a character if all that a frame gives to lyrics were even
    seconds: float
    """Of a frame."""
    length: float
    """Of all, in seconds."""


def _lyric_columns(prior: Prior, pattern: str) -> tuple[LyricsMemory | LyricsPrefix, slice]:
    """The conditioner that reads lyrics, and where its characters are among a layer's keys."""
    part = "memory" if pattern == "memory" else "prefix"
    kind = LyricsMemory if part == "memory" else LyricsPrefix
    start = 0
    for conditioner in cast(Iterable[Conditioner], prior.conditioners.values()):
        if isinstance(conditioner, kind):
            return conditioner, slice(start, start + conditioner.config.tokens)
        start += getattr(conditioner.provides, part)
    raise AssertionError("a prior was chosen that reads no lyrics")


def _steadiness(weights: np.ndarray) -> np.ndarray:
    """How each head's mean place in the lyrics goes with time, from -1 to 1: [H, T, S] -> [H].

    A correlation in which codes that look everywhere alike don't count, and moving by less than a
    character counts for little. Sharpness alone says less: a head may look sharply at one spot, or
    follow from afar.
    """
    shares = weights / np.maximum(weights.sum(2, keepdims=True), 1e-9)
    counted = np.maximum((shares**2).sum(2) - 1 / max(1, weights.shape[2]), 1e-9)  # [H, T]
    counted /= counted.sum(1, keepdims=True)
    place = shares @ np.arange(weights.shape[2], dtype=np.float32)
    time = np.broadcast_to(np.arange(weights.shape[1], dtype=np.float32), place.shape)
    place = place - (counted * place).sum(1, keepdims=True)
    time = time - (counted * time).sum(1, keepdims=True)
    together, *spreads = ((counted * x).sum(1) for x in (place * time, place**2, time**2))
    return together / ((np.sqrt(spreads[0]) + 1) * (np.sqrt(spreads[1]) + 1e-9))
