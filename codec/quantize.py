"""Vectors to the nearest entry of a codebook that follows them by moving averages.

Van den Oord et al. 2017 (arXiv 1711.00937, appendix A.1), with the random restarts of Jukebox
(section 3.2). It knows neither audio nor levels. Shapes: B batch, D width, N positions,
P = B x N vectors, K entries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from codec.metrics import codebook_use, count_codes

TABLE = 1 << 24
"""Distances that are held at once."""

Finder = Callable[[Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]
"""A codebook to a function of vectors: `two_nearest`, or one that finds the same."""


@dataclass(frozen=True)
class Quantized:
    """What quantising gives."""

    vectors: Tensor  # [B, D, N] entries; gradients pass straight through to the encoder
    codes: Tensor  # [B, N] int64
    commitment: Tensor  # [] mean squared distance of vectors to entries
    metrics: dict[str, Tensor]  # name -> []


class Quantizer(nn.Module):
    """A codebook. All of its state is in buffers, so a resumed training goes on exactly.

    Args:
        size: K.
        width: D.
        decay: of the running counts and sums.
        restart_threshold: an entry whose running count falls under it becomes a random vector of
            the batch; 0: never.
    """

    codebook: Tensor  # [K, D]
    counts: Tensor  # [K] running count of vectors that chose an entry
    sums: Tensor  # [K, D] running sum of them
    initialised: Tensor  # [] bool

    def __init__(
        self, size: int, width: int, decay: float = 0.99, restart_threshold: float = 1.0
    ) -> None:
        super().__init__()
        self.decay, self.restart_threshold = decay, restart_threshold
        self.register_buffer("codebook", torch.zeros(size, width))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, width))
        self.register_buffer("initialised", torch.tensor(False))

    def encode(self, x: Tensor, finder: Finder | None = None) -> Tensor:
        """Number of the nearest entry, the first of equals: [B, D, N] -> [B, N] int64.

        Args:
            x: vectors.
            finder: `two_nearest`, which is taken for None, or one that finds the same.
        """
        vectors = rearrange(x, "b d n -> (b n) d")
        return nearest(vectors, self.codebook, finder).view(x.shape[0], x.shape[2])

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries by number: [B, N] -> [B, D, N]."""
        return rearrange(self.codebook[codes], "b n d -> b d n")

    def forward(self, x: Tensor) -> Quantized:
        """Quantise [B, D, N]; in training mode the codebook then moves towards the vectors."""
        x = x.float()
        vectors = rearrange(x.detach(), "b d n -> (b n) d")
        if self.training and not self.initialised:
            self._initialise(vectors)
        codes = self.encode(x.detach())
        entries = self.lookup(codes)
        counts = count_codes(codes, len(self.codebook))
        if self.training:
            _add_up(counts)
        metrics = self._measure(counts)
        if self.training:
            metrics["restarts"] = self._follow(vectors, codes.flatten(), counts)
        commitment = (entries - x).square().mean()
        return Quantized(x + (entries - x).detach(), codes, commitment, metrics)

    def _measure(self, counts: Tensor) -> dict[str, Tensor]:
        use = codebook_use(counts)
        return {
            "codebook_used": use.used,
            "codebook_perplexity": use.perplexity,
            "codebook_entropy": use.entropy,
        }

    @torch.no_grad()
    def _initialise(self, vectors: Tensor) -> None:
        """Start at random vectors of the first batch."""
        self._restart(torch.ones_like(self.counts, dtype=torch.bool), vectors)
        self.initialised.fill_(True)

    @torch.no_grad()
    def _follow(self, vectors: Tensor, codes: Tensor, counts: Tensor) -> Tensor:
        """One moving-average update by vectors [P, D], their codes [P] and the counts of all
        processes' codes [K]; says how many restarted.

        Processes that train together see one batch, so their sums are added up too.
        """
        sums = _add_up(torch.zeros_like(self.sums).index_add_(0, codes, vectors))
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.restart_threshold
        moved = self.sums / self.counts[:, None]
        self.codebook.copy_(torch.where(self.counts[:, None] > 0, moved, self.codebook))
        self._restart(dead, vectors)
        return dead.sum()

    def _restart(self, dead: Tensor, vectors: Tensor) -> None:
        """Put the entries marked in `dead` [K] at random vectors of the batch [P, D].

        They begin with the count that just survives, and a sum that keeps them where they are.
        """
        drawn = _draw(vectors, len(self.codebook))
        count = max(self.restart_threshold, 1.0)
        self.codebook.copy_(torch.where(dead[:, None], drawn, self.codebook))
        self.sums.copy_(torch.where(dead[:, None], drawn * count, self.sums))
        self.counts.masked_fill_(dead, count)


def nearest(vectors: Tensor, codebook: Tensor, finder: Finder | None = None) -> Tensor:
    """Number of the entry nearest to each vector, the first of equals: [P, D], [K, D] -> [P].

    |k|^2 - 2 x.k is one matrix product, but loses digits where vectors are long and distances
    short. So it only settles what is clear; where its rounding could matter, distances are
    computed from differences. Neither batch nor hardware can then change a code.

    Args:
        vectors: [P, D].
        codebook: [K, D].
        finder: `two_nearest`, which is taken for None, or one that finds the same.
    """
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        vectors, codebook = vectors.float(), codebook.float()
        rows = max(1, TABLE // len(codebook))
        # Around their centre numbers are small, and so is rounding.
        centre = codebook.mean(0)
        centred = codebook - centre
        find, longest = (finder or two_nearest)(centred), centred.square().sum(1).max()
        parts = []
        for part in vectors.split(rows):
            around = part - centre
            codes, gap = find(around)
            close = ~(gap > _bound(around, longest))
            parts.append(_settled(codes, close, part, codebook))
        return torch.cat(parts) if parts else vectors.new_zeros(0, dtype=torch.long)


def two_nearest(codebook: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Of each vector, [P, D], the nearest entry of [K, D] up to rounding, and how much further the
    second is, squared: [P] int64 and [P].
    """
    squares, count = codebook.square().sum(1), min(2, len(codebook))

    def find(vectors: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.addmm(squares, vectors, codebook.T, alpha=-2)
        least = table.topk(count, dim=1, largest=False)
        return least.indices[:, 0], least.values[:, -1] - least.values[:, 0]

    return find


def _bound(vectors: Tensor, longest: Tensor) -> Tensor:
    """What rounding can do to the gaps of vectors [P, D] -> [P]; `longest`: an entry's square.

    That of a dot product of D terms for both entries together, and of moving them to the centre.
    """
    fast = torch.get_float32_matmul_precision() != "highest"
    eps = torch.finfo(torch.bfloat16 if fast else torch.float32).eps
    size = longest + 2 * vectors.norm(dim=1) * longest.sqrt()
    return (vectors.shape[1] + 4) * eps * size


def _settled(codes: Tensor, close: Tensor, vectors: Tensor, codebook: Tensor) -> Tensor:
    """Codes [P], those that are `close` [P] from differences."""
    rows = close.nonzero().squeeze(1)
    exact = torch.cdist(vectors[rows], codebook, compute_mode="donot_use_mm_for_euclid_dist")
    return codes.index_copy(0, rows, exact.argmin(1))


def _draw(vectors: Tensor, count: int) -> Tensor:
    """Random ones of all processes' [P, D] -> [count, D], each once; repeated with noise if there
    are fewer. The same on every process.
    """
    size, rank = (dist.get_world_size(), dist.get_rank()) if _together() else (1, 0)
    own = len(vectors)
    total = own * size
    copies = -(-count // total)
    numbers = torch.randperm(total * copies, device=vectors.device)[:count] % total
    noise = torch.randn(count, vectors.shape[1], device=vectors.device) if copies > 1 else None
    if size > 1:
        for told in (numbers, noise):
            if told is not None:
                dist.broadcast(told, 0)
    # Each process adds those of its own, so that no more than what was drawn is sent.
    numbers = numbers - own * rank
    here = (numbers >= 0) & (numbers < own)
    drawn = vectors.new_zeros(count, vectors.shape[1])
    drawn[here] = vectors[numbers[here]]
    _add_up(drawn)
    return drawn if noise is None else drawn + noise * 0.01 / vectors.shape[1] ** 0.5


def _add_up(tensor: Tensor) -> Tensor:
    """The sum over processes that train together, in place."""
    if _together():
        dist.all_reduce(tensor)
    return tensor


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
