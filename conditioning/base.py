"""The seam between conditioners and priors: metadata of a track in, a Condition out.

It does not know how a prior uses a Condition. Shapes:
B batch, T code positions of a window, D width of the prior, S memory or prefix positions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel
from torch import Tensor, nn

from codec.tokens import TokenSpec, TokenStream

Track = Mapping[str, Any]
"""A row of a token corpus, or what a sampler knows of the track that it makes."""


@dataclass(frozen=True)
class Site:
    """The place that a conditioner is built for."""

    width: int
    """D, the prior's width."""
    context: int
    """T, the codes that the prior sees."""
    sample_rate: int
    stream: TokenStream
    """The stream that the prior models."""
    upper: TokenStream | None = None
    """The next coarser stream, if any."""
    transformer: Callable[..., nn.Module] | None = None
    """Builds a causal transformer of the prior's kind, [B, S, W] -> [B, S, W], from settings:
    context (S), width (W), depth, heads, blocks, patterns, ... It is lent, so that a conditioner
    may read a sequence without knowing how attention is computed."""


@dataclass(frozen=True)
class Window:
    """One context-long stretch of a track, in codes of the site's stream."""

    start: int
    """First code; a multiple of the upper stream's hop over this stream's hop."""
    total: int
    """Length of the whole track, in audio samples."""


@dataclass(frozen=True)
class Provides:
    """The parts of a Condition that a conditioner makes; known before any batch."""

    start: bool = False
    position: bool = False
    memory: int = 0
    """S of the memory; 0 for none."""
    prefix: int = 0
    """S of the prefix; 0 for none."""
    prefix_vocab: int = 0
    """Kinds of its tokens."""
    prefix_weight: float = 0.0
    """Of the loss at one of its positions, beside 1 for a code."""


@dataclass(frozen=True)
class AuxiliaryLoss:
    """What a conditioner learns besides what the prior learns."""

    name: str
    mean: Tensor  # [] nats per position
    positions: int
    """Positions of an item that it is the mean of."""
    weight: float
    """Of the loss at one of them, beside 1 for a code."""


@dataclass(frozen=True)
class Condition:
    """What a prior is told besides the codes. Every part may be missing."""

    start: Tensor | None = None  # [B, 1, D] stands in place of the learned start token
    position: Tensor | None = None  # [B, T, D] added to the inputs at code positions
    memory: Tensor | None = None  # [B, S, D] read by memory attention
    memory_mask: Tensor | None = None  # [B, S] bool, True where there is something to read
    prefix: Tensor | None = None  # [B, S] int64 tokens ahead of the codes
    losses: tuple[AuxiliaryLoss, ...] = ()


class Conditioner(nn.Module, ABC):
    """Turns a track's metadata into a Condition (paper section 4.2 and 4.3).

    `prepare` runs in the data loader, without gradients or device; `forward` in the model.
    """

    Config: ClassVar[type[BaseModel]]
    """Settings and vocabularies; they travel with the checkpoint."""
    reads: ClassVar[tuple[str, ...] | None] = None
    """Columns of a track's metadata that it looks at; None: nobody knows which."""

    def __init__(self, config: Any, site: Site) -> None:
        super().__init__()
        self.config = config
        self.site = site

    @classmethod
    def fit(cls, config: Any, tracks: Iterable[Track]) -> Any:
        """The config with vocabularies grown by what `tracks` hold; entries keep their numbers."""
        return config

    @property
    @abstractmethod
    def provides(self) -> Provides:
        """Which parts of a Condition `forward` makes."""

    @abstractmethod
    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Tensors of one item, without the batch axis; same names and shapes for every item.

        Args:
            track: metadata and codes of the track.
            window: which stretch of it.
            rng: given in training only; may drop labels, so that the prior learns "unknown".
        """

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Condition:
        """The Condition of a batch of prepared tensors, each [B, ...]."""

    def check(self, track: Track) -> None:
        """Refuse labels that no vocabulary has; for labels that a person typed.

        Raises:
            InputError: lists the nearest names.
        """
        return

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors of this conditioner, fitted to vocabularies grown by `fit`.

        Fine-tuning on new labels goes: grow the config with `fit`, build the conditioner anew,
        load what `adopt` makes of the old tensors. Rows of known labels stay as they were.

        Args:
            state: tensors by name, as in the `state_dict` of the conditioner that was saved.

        Returns:
            Tensors of the same names; unchanged here, longer tables where vocabularies grew.
        """
        return dict(state)


@dataclass(frozen=True)
class Excerpt:
    """The lyrics of one window, and where they are in those of the track."""

    tokens: list[int]
    """[S] numbers of what a text is read as, characters or bytes; 0 for padding."""
    indices: list[int]
    """[S], of each its place among all tokens of the track's lyrics; -1 for padding."""
    sources: tuple[int, ...]
    """Of each token of the track's lyrics, the character that it comes from: its index in the
    lyrics as they were written. It never falls."""


class LyricsReader(Conditioner):
    """A conditioner that gives a prior lyrics to look at, as its memory or as its prefix.

    Who reads a prior's attention learns from it which words the prior looked at: position i of
    the memory or prefix stands for token i of the window's excerpt.
    """

    @abstractmethod
    def excerpt(self, track: Track, window: Window) -> Excerpt:
        """The lyrics of a window of a track; nothing but padding if it has none."""


@dataclass(frozen=True)
class Word:
    """A word of the lyrics and when it is sung."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    text: str
    confidence: float
    """From 0 to 1."""


@dataclass(frozen=True)
class AlignmentMap:
    """What an aligner went by: how much each frame of a track has to do with each token of its
    lyrics. For people to look at."""

    weights: np.ndarray
    """[F, C] of F frames and C tokens: not negative, on any scale."""
    seconds: float
    """Length of a frame."""
    sources: Sequence[int]
    """[C], of each token the character of the lyrics as written that it comes from, as in
    `Excerpt`."""


class Aligner(ABC):
    """Finds out when each word of a track's lyrics is sung.

    Args:
        config: settings of this kind of aligner.
    """

    Config: ClassVar[type[BaseModel]]
    map: AlignmentMap | None = None
    """Of the track that was aligned last, where there is one to show; `align` sets it anew."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def why_not(cls) -> str | None:
        """What this machine lacks for it, or None if it can work here."""
        return None

    @abstractmethod
    def align(self, track: Track, spec: TokenSpec) -> list[Word] | str:
        """Words with times, in order; or the reason why there are none, in one line.

        Args:
            track: a row of a token corpus, with codes, lyrics and the path of its audio (below
                the folder that the config may ask for as `audio`).
            spec: of the corpus.

        Raises:
            InputError: the aligner can't work on this corpus at all.
        """
