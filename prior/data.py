"""Token corpus to training windows: codes, and what the conditioners prepare.

It knows corpora and windows, not what a conditioner does. Shapes: T codes of a window, V codes of
the stream's codebook.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from codec.corpus import Corpus
from conditioning.base import Window
from plugins.ground.crops import Crops
from plugins.ground.errors import InputError
from prior.prior import Prior


class Windows:
    """Windows of one stream of a corpus, one context long (paper section 5.2).

    Args:
        corpus: its spec must be the prior's.
        prior: prepares the conditions; its network is not used.
        tracks: which tracks of the corpus.
        seed: of order, starts and dropped labels.
        training: draw starts anywhere and drop labels; else cut windows one after the other.
    """

    def __init__(
        self, corpus: Corpus, prior: Prior, tracks: Sequence[int], *, seed: int, training: bool
    ) -> None:
        config = prior.config
        config.spec.require(corpus.spec, "the prior", str(corpus.folder))
        self.corpus, self.prior, self.tracks, self.training = corpus, prior, list(tracks), training
        self.name, self.context = config.stream, config.context
        lengths = corpus.lengths(config.stream)[self.tracks].tolist()
        if not any(lengths):
            raise InputError(f"{corpus.folder} has no codes of stream {config.stream!r}")
        align = window_alignment(prior)
        self.crops = Crops(lengths, self.context, seed=seed, align=align, shift=training)

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Item `index`: "codes" [T] int64, "mask" [T] bool (False behind a track's end), and
        the conditioners' tensors.
        """
        turn, start = self.crops(index)
        track = self.corpus[self.tracks[turn]]
        codes = np.asarray(track[f"codes_{self.name}"][start : start + self.context], np.int64)
        missing = self.context - len(codes)
        rng = self.crops.rng(index) if self.training else None
        return {
            "codes": torch.from_numpy(np.pad(codes, (0, missing))),
            "mask": torch.arange(self.context) < len(codes),
            **self.prior.prepare(track, Window(start, track["num_samples"]), rng),
        }


def window_alignment(prior: Prior) -> int:
    """Codes between two places where a window may start: those of one code of the stream above."""
    site = prior.site
    return site.upper.hop_length // site.stream.hop_length if site.upper else 1


def stack(items: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Items to a batch [B, ...] on a device."""
    return {name: torch.stack([item[name] for item in items]).to(device) for name in items[0]}


def unigram_bits(
    corpus: Corpus, stream: str, train: Sequence[int], held_out: Sequence[int]
) -> float:
    """Bits per held-out code under the smoothed unigram model of the training tracks.

    What a prior must beat to have learned more than which codes are common. Every code is counted
    once more than it was seen (Laplace).
    """
    size = corpus.spec.stream(stream).vocab_size
    counts = _histogram(corpus, stream, train, size) + 1
    surprise = -np.log2(counts / counts.sum())
    seen = _histogram(corpus, stream, held_out, size)
    return float((seen * surprise).sum() / max(1, seen.sum()))


def _histogram(corpus: Corpus, stream: str, tracks: Sequence[int], size: int) -> np.ndarray:
    total = np.zeros(size, np.int64)
    for track in tracks:
        total += np.bincount(corpus[track][f"codes_{stream}"], minlength=size)
    return total
