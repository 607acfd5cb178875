"""Training windows of a corpus that is read as a stream, shuffled, each process its own part.

Rows that lie together are read together, so windows are drawn from a few row groups at a time. Each
place of a batch is a lane of its own: the row groups of an epoch, shuffled, lie in one line that
the lanes share in equal stretches. A process fills the places of its share of a batch, so it reads
the row groups of its own lanes alone, and windows do not depend on how many processes there are.
It knows corpora and windows, not what a conditioner does.
"""

import functools
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from codec.corpus import Corpus
from plugins.ground.crops import Crops
from plugins.ground.errors import InputError
from prior.data import made_window, window_alignment
from prior.prior import Prior


class StreamedWindows:
    """Windows of one stream of a corpus, one context long (paper section 5.2).

    Args:
        corpus: opened for streaming; its spec must be the prior's.
        prior: prepares the conditions; its network is not used.
        tracks: which tracks of the corpus.
        seed: of order, starts and dropped labels.
        lanes: places of a batch; item `index` is at place `index % lanes`.

    Raises:
        InputError: codes of another codec, or none at all.
    """

    def __init__(
        self, corpus: Corpus, prior: Prior, tracks: Sequence[int], *, seed: int, lanes: int
    ) -> None:
        config = prior.config
        config.spec.require(corpus.spec, "the prior", str(corpus.folder))
        self.corpus, self.prior, self.seed, self.lanes = corpus, prior, seed, lanes
        self._wanted = np.zeros(len(corpus), bool)
        self._wanted[list(tracks)] = True
        groups = corpus.groups
        # A lane's group must stay at hand while the others' are read.
        groups.held = max(groups.held, lanes + 1)
        sizes = groups.sizes(config.stream)
        parts = [self._wanted[groups.rows(number)].mean() for number in range(len(groups))]
        windows = np.ceil(sizes * np.array(parts) / config.context).astype(np.int64)
        self._groups = np.flatnonzero(windows)
        self._windows = windows[self._groups]
        self._stretch = max(1, int(windows.sum()) // lanes)
        """Items of a lane in an epoch."""
        if not len(self._groups):
            raise self._nothing()
        self._epoch = functools.lru_cache(2)(self._shuffled)
        self._crops = functools.lru_cache(lanes + 1)(self._crops_of)

    def __len__(self) -> int:
        """Items in an epoch."""
        return self._stretch * self.lanes

    def __getstate__(self) -> dict[str, object]:
        """Without the caches, which other processes can't be sent."""
        return {name: v for name, v in vars(self).items() if name not in ("_epoch", "_crops")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._epoch = functools.lru_cache(2)(self._shuffled)
        self._crops = functools.lru_cache(self.lanes + 1)(self._crops_of)

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Item `index`, as of `prior.data.Windows`."""
        track, start = self.place(index)
        rng = np.random.default_rng([self.seed, index, 1])
        return made_window(self.prior, self.corpus[track], start, rng)

    def place(self, index: int) -> tuple[int, int]:
        """Track and start of item `index`, for any index from 0 up."""
        turn, lane = divmod(index, self.lanes)
        epoch, step = divmod(turn, self._stretch)
        order, ends = self._epoch(epoch)
        window = (lane * self._stretch + step) % int(ends[-1])
        at = int(np.searchsorted(ends, window, side="right"))
        first = int(ends[at - 1]) if at else 0
        # Of tracks that are held out from, those that are left may have no codes.
        for further in range(len(order)):
            tracks, crops = self._crops(int(self._groups[order[(at + further) % len(order)]]))
            if len(crops):
                turn, start = crops(epoch * len(crops) + (window - first) % len(crops))
                return tracks[turn], start
        raise self._nothing()

    def _nothing(self) -> InputError:
        return InputError(
            f"the tracks of {self.corpus.folder} to train on have no codes of stream "
            f"{self.prior.config.stream!r}"
        )

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of groups in an epoch, and where the windows of each end."""
        order = np.random.default_rng([self.seed, 1 << 41, epoch]).permutation(len(self._groups))
        return order, np.cumsum(self._windows[order])

    def _crops_of(self, number: int) -> tuple[list[int], Crops]:
        """The tracks of a group to train on that have codes, and where to cut windows."""
        stream = self.prior.config.stream
        tracks = [row for row in self.corpus.groups.rows(number) if self._wanted[row]]
        lengths = [len(self.corpus.codes(track, stream)) for track in tracks]
        return tracks, Crops(
            lengths,
            self.prior.config.context,
            seed=self.seed * 1_000_003 + number,
            align=window_alignment(self.prior.site),
        )
