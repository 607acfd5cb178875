"""One-token steps of one shape: what a compiler or a CUDA graph needs, with nothing left to Python.

A plain step slices caches by its position, a Python number, so every position is another program.
Here the position is a tensor, and a query sees as many slots as any of its layer's does, those
that are not its own masked. It knows neither levels nor labels. Shapes: B batch, H heads, S slots
that are looked at, D width of a head, V tokens, P positions.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conditioning.base import Condition
from plugins.ground.errors import InputError
from plugins.ground.native import cache_folder
from prior.attention.base import Attend
from prior.attention.cache import LayerCache, MemoryCache, slot_tables
from prior.attention.pattern import Pattern
from prior.config import PriorConfig
from prior.prior import Prior
from prior.steps.base import Caches, Steps


class StaticCache:
    """The keys and values of a `LayerCache`, at a position that is a tensor. It is an `Attend`.

    Args:
        cache: whose tensors it goes on with.
        position: [] int64 of the next key, counted over prefix and codes.
    """

    def __init__(self, cache: LayerCache, position: Tensor) -> None:
        tables = torch.from_numpy(slot_tables(cache.pattern)).to(cache.keys.device, torch.int64)
        self.keys, self.values, self.position = cache.keys, cache.values, position
        self.slots, self.starts, stops = tables.unbind()  # [P] each
        self.counts = stops - self.starts
        self.span = torch.arange(max(1, int(self.counts.max())), device=tables.device)  # [S]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """Attention of one query [B, H, 1, D]; its key and value are kept."""
        at = self.position[None]
        slot = self.slots[at]
        self.keys.index_copy_(2, slot, k.to(self.keys.dtype))
        self.values.index_copy_(2, slot, v.to(self.values.dtype))
        looked = (self.starts[at] + self.span).clamp(max=self.keys.shape[2] - 1)
        seen = self.span < self.counts[at]
        mixed = F.scaled_dot_product_attention(
            q,
            self.keys.index_select(2, looked),
            self.values.index_select(2, looked),
            attn_mask=seen[None, None, None],
        )
        return torch.where(seen.any(), mixed, 0)


def _memory_attention(mask: Tensor | None) -> Attend:
    """Attention to a memory [B, H, S, D], some of whose positions may be missing (mask [B, S])."""

    def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v)
        there = mask[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=there)
        return torch.where(there.any(-1, keepdim=True), mixed, 0)

    return attend


class StaticSteps(Steps):
    """Steps of one shape, run as they are. They serve as the plain form of the two below."""

    def __init__(self, prior: Prior, condition: Condition, caches: Caches, batch: int) -> None:
        super().__init__(prior, condition, caches, batch)
        device = prior.embedding.weight.device
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        """Of the code to come."""
        self.place = torch.zeros((), dtype=torch.int64, device=device)
        """The same, counted over prefix and codes."""
        self.attends = [self._static(cache) for cache in caches]
        self.told = condition.position

    @classmethod
    def why_not(cls, config: PriorConfig, device: torch.device, dtype: torch.dtype) -> str | None:
        """It serves priors whose layers attend by kernels."""
        if config.attention is not None:
            return f"layers attend with {config.attention.name!r}, which is their own"
        return None

    def _static(self, cache: LayerCache | MemoryCache) -> Attend:
        if isinstance(cache, LayerCache):
            return StaticCache(cache, self.place)
        return MemoryCache(_memory_attention(self.condition.memory_mask))

    def begin(self) -> None:
        """See `Steps`: memories are there only now."""
        for attend, cache in zip(self.attends, self.caches, strict=True):
            if isinstance(attend, MemoryCache) and isinstance(cache, MemoryCache):
                attend.kept = cache.kept

    def one(self, tokens: Tensor) -> Tensor:
        """Tokens [B] before `position` -> logits [B, V] of the code there."""
        prior = self.prior
        x = prior.embedding(tokens[:, None]) + prior.positions[self.place[None]]
        told = None if self.told is None else self.told.index_select(1, self.position[None])
        if told is not None:
            x = x + told
        return prior.head(prior.transformer(x, self.attends), told)[:, -1]

    def step(self, tokens: Tensor, position: int) -> Tensor:
        """See `Steps`."""
        self.position.fill_(position)
        self.place.fill_(self.prior.prefix + position)
        return self.computed(tokens).cpu()

    def computed(self, tokens: Tensor) -> Tensor:
        """What `one` gives, by whatever means."""
        return self.one(tokens)


class CompiledSteps(StaticSteps):
    """Steps that `torch.compile` made one program of; what it made is kept on disk.

    Compiling takes tens of seconds for a small prior, and some seconds of it again in each process.
    """

    def __init__(self, prior: Prior, condition: Condition, caches: Caches, batch: int) -> None:
        super().__init__(prior, condition, caches, batch)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
        self._program: Callable[[Tensor], Tensor] = torch.compile(
            self.one, fullgraph=True, dynamic=False
        )

    def computed(self, tokens: Tensor) -> Tensor:
        """See `StaticSteps`.

        Raises:
            InputError: it can't be compiled here.
        """
        try:
            return self._program(tokens)
        except Exception as error:  # compilers raise many types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"engine 'compiled' can't compile this prior here: {reason}"
            ) from error


class GraphSteps(StaticSteps):
    """Steps recorded once as a CUDA graph and replayed: nothing is launched from Python.

    Not tried on a CUDA device by this project's own tests, which run on CPUs.
    """

    def __init__(self, prior: Prior, condition: Condition, caches: Caches, batch: int) -> None:
        super().__init__(prior, condition, caches, batch)
        self._graph: Any = None
        self._tokens = self._logits = torch.empty(0)

    @classmethod
    def why_not(cls, config: PriorConfig, device: torch.device, dtype: torch.dtype) -> str | None:
        """It serves what is on a CUDA device."""
        if device.type != "cuda":
            return f"{device.type} has no CUDA graphs"
        return super().why_not(config, device, dtype)

    def begin(self) -> None:
        """See `Steps`: a graph reads memories where they lay when it was recorded."""
        super().begin()
        self._graph = None

    def computed(self, tokens: Tensor) -> Tensor:
        """See `StaticSteps`."""
        if self._graph is None:
            self._record(tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._logits

    def _record(self, tokens: Tensor) -> None:
        self._tokens = tokens.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.one(self._tokens)  # what is set up on a first call must not be recorded
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self.one(self._tokens)
