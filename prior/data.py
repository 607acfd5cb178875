"""Token corpus to training windows: codes, and what the conditioners prepare.

It knows corpora and windows, not what a conditioner does. Shapes: T codes of a window, V codes of
the stream's codebook.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.corpus import Corpus
from conditioning.base import Site, Window
from plugins import registry
from plugins.ground.crops import Crops
from plugins.ground.errors import InputError
from prior.config import PriorConfig
from prior.prior import Prior


class Windows:
    """Windows of one stream of a corpus, one context long (paper section 5.2).

    Args:
        corpus: its spec must be the prior's.
        prior: prepares the conditions; its network is not used.
        tracks: which tracks of the corpus.
        seed: of order, starts and dropped labels.
        training: draw starts anywhere and drop labels; else cut windows one after the other.

    Raises:
        InputError: codes of another codec, or none at all.
    """

    def __init__(
        self, corpus: Corpus, prior: Prior, tracks: Sequence[int], *, seed: int, training: bool
    ) -> None:
        config = prior.config
        config.spec.require(corpus.spec, "the prior", str(corpus.folder))
        self.corpus, self.prior, self.tracks, self.training = corpus, prior, list(tracks), training
        lengths = corpus.lengths(config.stream, self.tracks).tolist()
        if not any(lengths):
            raise InputError(
                f"the tracks of {corpus.folder} to {'train' if training else 'evaluate'} on have "
                f"no codes of stream {config.stream!r}"
            )
        align = window_alignment(prior.site)
        self.crops = Crops(lengths, config.context, seed=seed, align=align, shift=training)

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Item `index`: "codes" [T] int64, "mask" [T] bool (False behind a track's end), and
        the conditioners' tensors.
        """
        turn, start = self.crops(index)
        rng = self.crops.rng(index) if self.training else None
        return made_window(self.prior, self.corpus[self.tracks[turn]], start, rng)


class Labels:
    """What is known about some tracks of a corpus, without codes; read anew at each pass."""

    def __init__(self, corpus: Corpus, tracks: Sequence[int]) -> None:
        self.corpus, self.tracks = corpus, tracks

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self.corpus.metadata(track) for track in self.tracks)


def made_window(
    prior: Prior, track: Mapping[str, Any], start: int, rng: np.random.Generator | None
) -> dict[str, Tensor]:
    """A window of a track as `Windows` gives it.

    Args:
        prior: whose stream is cut, and who prepares the conditions.
        track: a row of a corpus.
        start: code that the window begins with.
        rng: drops labels, in training.
    """
    config = prior.config
    codes = np.asarray(track[f"codes_{config.stream}"][start : start + config.context], np.int64)
    return {
        "codes": torch.from_numpy(np.pad(codes, (0, config.context - len(codes)))),
        "mask": torch.arange(config.context) < len(codes),
        **prior.prepare(track, Window(start, track["num_samples"]), rng),
    }


def reads(config: PriorConfig, column: str) -> bool:
    """Whether a conditioner of a prior looks at a column of a track's metadata, or may do so."""
    known = [registry.get(registry.CONDITIONERS, kept.name).reads for kept in config.conditioners]
    return any(columns is None or column in columns for columns in known)


def identity(corpus: Corpus, config: PriorConfig) -> str:
    """Name of all that a prior may see of a corpus."""
    times = corpus.words_fingerprint if reads(config, "words") else ""
    return f"{corpus.fingerprint}, words {times}" if times else corpus.fingerprint


def window_alignment(site: Site) -> int:
    """Codes between two places where a window may start: those of one code of the stream above."""
    return site.upper.hop_length // site.stream.hop_length if site.upper else 1


def stack(items: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Items to a batch [B, ...] on a device."""
    return {name: torch.stack([item[name] for item in items]).to(device) for name in items[0]}


def unigram_surprise(corpus: Corpus, stream: str, tracks: Sequence[int]) -> np.ndarray:
    """Bits that each code costs under the smoothed unigram model of some tracks, [V] float64.

    What a prior must beat on held-out codes to have learned more than which codes are common.
    Every code is counted once more than it was seen (Laplace).
    """
    counts = np.ones(corpus.spec.stream(stream).vocab_size, np.int64)
    for track in tracks:
        counts += np.bincount(corpus.codes(track, stream), minlength=len(counts))
    return -np.log2(counts / counts.sum())
