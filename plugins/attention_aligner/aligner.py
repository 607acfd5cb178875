"""`attention`: words are sung where a prior that reads lyrics looks at them.

A prior that was trained with lyrics learns to attend to the characters that are being sung (paper
section 4.3 and figure 4): some heads of some layers do, and show it by going through the lyrics
from first to last. It knows priors and codes, no audio. Shapes: F frames of a track, C tokens of
its whole lyrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from codec.tokens import TokenSpec
from conditioning.base import Aligner, AlignmentMap, LyricsReader, Track, Window, Word
from conditioning.words import NO_LYRICS
from plugins import registry
from plugins.attention_aligner.looking import (
    MEMORY,
    PREFIX,
    Head,
    Looks,
    Reading,
    look,
    readings,
)
from plugins.attention_aligner.path import Lattice, Sung, Words, sung_words
from plugins.attention_aligner.times import timed_words, word_places
from plugins.ground.device import Precision, pick_device, pick_dtype
from plugins.ground.errors import InputError
from plugins.ground.model import prior_of
from prior.checkpoint import load_prior, read_config
from prior.config import PriorConfig

LEAST_GAIN = 2.0
"""Nats that each found word must be worth: what a path through the lyrics gains over one through
the same attention backwards. Where nothing is followed there is less."""
SHARPNESS = 8
"""A head counts by its gain to this power: those that are about as good as the best help it."""
NEGLIGIBLE = 0.01
"""Of what the best head counts; others are not mixed in."""
FEW = 7
"""Words that count as so many, since the best of many paths gains something by chance."""


class AttentionAlignerConfig(BaseModel):
    """Whose attention is read, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    """Folder with a prior that reads lyrics, prior_<stream>/."""
    stream: str | None = None
    """Of the prior; None: the coarsest that there is."""
    layer: int | None = None
    """From 0; None: for each track those with the heads that follow its lyrics best."""
    head: int | None = None
    """From 0; None: for each track those that follow its lyrics best."""
    device: str = "auto"
    dtype: Precision = "float32"
    hop_fraction: float = Field(0.5, gt=0, le=1)
    """From one window to the next, over the context; each adds the codes that are new to it."""
    passes: int = Field(2, ge=1)
    """Times that a track is looked at, if its lyrics are longer than a window's: first with those
    that the straight line gives to a window, then with those that were found to be sung there."""
    total_seconds: float | None = Field(None, gt=0)
    """Length of the whole song where the track is a part of it; None: the track's own."""


@dataclass(frozen=True)
class Found:
    """A track's words, and what they were read off."""

    heads: Mapping[Head, float]
    """Each with its share in the attention."""
    gain: float
    """Nats; see `Lattice.gain`."""
    attention: np.ndarray  # [F, C]
    sung: Sequence[Sung | None]

    @classmethod
    def of(cls, looks: Looks, places: Words) -> "Found":
        """The words by the heads that follow them best.

        Args:
            looks: of all heads.
            places: of the words among the tokens.
        """
        cuts = looks.cuts
        gains = {
            head: Lattice.of(*looks.mixed({head: 1.0}), places).gain(cuts) for head in looks.heads
        }
        best = max(gains, key=lambda head: gains[head])
        parts = {
            head: (gain / gains[best]) ** SHARPNESS for head, gain in gains.items() if gain > 0
        } or {best: 1.0}
        parts = {head: part for head, part in parts.items() if part > NEGLIGIBLE}
        shares = {head: part / sum(parts.values()) for head, part in parts.items()}
        seen, even = looks.mixed(shares)
        gain = Lattice.of(seen, even, places).gain(cuts)
        return cls(shares, gain, seen, sung_words(seen, even, places))

    @property
    def follows(self) -> bool:
        """Whether the heads look at the words that are being sung."""
        return self.gain > LEAST_GAIN * max(FEW, sum(word is not None for word in self.sung))


class AttentionAligner(Aligner):
    """Reads the times of words off the heads that follow them best, of all that look at lyrics.

    Raises:
        InputError: the model has no prior that reads lyrics, or it has no such layer or head.
    """

    Config = AttentionAlignerConfig
    config: AttentionAlignerConfig

    def __init__(self, config: AttentionAlignerConfig) -> None:
        super().__init__(config)
        self.folder = prior_of(config.model, config.stream)
        shape = read_config(self.folder)
        self._require_reader(shape)
        device = pick_device(config.device)
        dtype = pick_dtype(config.dtype, device)
        layers = self._layers(shape, (*MEMORY, *PREFIX))
        self.prior = load_prior(self.folder, device, dtype, layers=layers[-1] + 1)
        self.reading, self.heads = self._choose(shape)

    def align(self, track: Track, spec: TokenSpec) -> list[Word] | str:
        """See `Aligner`: words as white space separates them; those not found get confidence 0."""
        self.map, shape = None, self.prior.config
        shape.spec.require(spec, str(self.folder), "the corpus")
        text = str(track.get("lyrics") or "")
        if not text.strip():
            return NO_LYRICS
        if not len(track[f"codes_{shape.stream}"]):
            return f"it has no codes of stream {shape.stream}"
        # Words that it has may be wrong, or come from where the times shall not.
        plain = {**track, "words": []}
        excerpt = self.reading.reader.excerpt(plain, Window(0, track["num_samples"]))
        places = word_places(text, excerpt.sources)
        if all(start == stop for start, stop in places):
            return "its lyrics have no character that the prior reads"
        looks = self._look(plain, self.heads)
        found = Found.of(looks, places)
        if not found.follows:
            return "no head that reads lyrics follows its words"
        words = timed_words(text.split(), found.sung, looks.seconds, looks.length)
        for _ in range(1, self.config.passes if len(excerpt.indices) < looks.tokens else 1):
            told = {**track, "words": [vars(word) for word in words]}
            again = Found.of(looks := self._look(told, [*found.heads]), places)
            if again.gain <= found.gain:
                break
            found = again
            words = timed_words(text.split(), found.sung, looks.seconds, looks.length)
        self.map = AlignmentMap(found.attention, looks.seconds, excerpt.sources)
        return words

    def _look(self, track: Track, heads: Sequence[Head]) -> Looks:
        rate = self.prior.config.spec.sample_rate
        total = max(track["num_samples"], round((self.config.total_seconds or 0) * rate))
        return look(self.prior, self.reading, track, heads, self.config.hop_fraction, total)

    def _require_reader(self, shape: PriorConfig) -> None:
        """Refuse a prior that is told no lyrics, before it is loaded."""
        for record in shape.conditioners:
            cls, _ = registry.restore(registry.CONDITIONERS, record)
            if issubclass(cls, LyricsReader):
                return
        names = ", ".join(record.name for record in shape.conditioners) or "nothing"
        raise InputError(
            f"{self.folder} reads no lyrics (it is told {names}): give a model whose prior does"
        )

    def _layers(self, shape: PriorConfig, patterns: Sequence[str]) -> list[int]:
        """The layers of these patterns, or the one that the config names.

        Raises:
            InputError: there is none, or it is none of them.
        """
        able = [layer for layer in range(shape.depth) if shape.pattern_of(layer) in patterns]
        if not able:
            raise InputError(f"{self.folder} has no layer that looks at its lyrics")
        layer = self.config.layer
        if layer is not None and layer not in able:
            raise InputError(
                f"layer {layer} of {self.folder} reads no lyrics; there are: "
                f"{', '.join(map(str, able))}"
            )
        return able if layer is None else [layer]

    def _choose(self, shape: PriorConfig) -> tuple[Reading, list[Head]]:
        """What reads lyrics, and the heads that may follow them."""
        every = list(readings(self.prior))
        patterns = {shape.pattern_of(layer) for layer in range(shape.depth)}
        reading = next((one for one in every if patterns & set(one.patterns)), every[0])
        head = self.config.head
        if head is not None and not 0 <= head < shape.heads:
            raise InputError(
                f"no head {head} in {self.folder}: layers have heads 0 to {shape.heads - 1}"
            )
        numbers = range(shape.heads) if head is None else [head]
        layers = self._layers(shape, reading.patterns)
        return reading, [Head(layer, number) for layer in layers for number in numbers]
