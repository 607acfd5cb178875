"""The transformer: vectors in, vectors out, causal by its patterns. It knows no codes.

Pre-norm residual layers without a final norm (paper appendix B.2). Shapes:
B batch, T positions, S positions of a memory, W width, H heads, D width of a head.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plugins import registry
from plugins.ground.errors import InputError
from prior.attention.base import Attend, LayerAttention, LayerSite
from prior.attention.cache import LayerCache, MemoryCache
from prior.attention.kernels import AUTO, Chosen
from prior.attention.pattern import Memory, Pattern, SelfPattern, make_pattern
from prior.config import TransformerConfig
from prior.lean import by_rows, linear, then_linear


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, elementwise."""
        # Its identity with SiLU: one fused operation, whose backward pass keeps one tensor.
        return F.silu(1.702 * x) * (1 / 1.702)


class Attention(nn.Module):
    """Multi-head attention; how it attends is handed in. The layer applies the last projection."""

    def __init__(self, config: TransformerConfig, pattern: SelfPattern) -> None:
        super().__init__()
        self.pattern = pattern
        self.heads = config.heads
        self.own = own_attention(config, pattern)
        """What this layer attends with, if no kernel can."""
        self.qkv = nn.Linear(config.width, 3 * config.attention_width)
        self.out = nn.Linear(config.attention_width, config.width)

    def forward(
        self, x: Tensor, norm: nn.Module, attend: Attend, memory: Tensor | None = None
    ) -> Tensor:
        """[B, T, W], to be normalised first -> what `out` takes, [B, T, H x D].

        Raises:
            InputError: the layer's own attention can't do what it claims.
        """
        q, k, v = _split(by_rows(partial(then_linear, norm, self.qkv), x), 3, self.heads)
        if self.own is None:
            return _join(attend(q, k, v, self.pattern))
        where = f"pattern {self.pattern.name!r} on {q.device.type} in {q.dtype}"
        with registry.blaming(type(self.own), f"serve {where}"):
            mixed = attend(q, k, v, self.pattern)
            if mixed.shape != q.shape:
                raise TypeError(f"it made {list(mixed.shape)} of {list(q.shape)}")
            if mixed.dtype != q.dtype and not torch.is_autocast_enabled(q.device.type):
                raise RuntimeError(f"it made dtype {mixed.dtype} of {q.dtype}")
            return _join(mixed)


class MemoryAttention(nn.Module):
    """Multi-head attention to another sequence (paper section 4.3: to the lyrics)."""

    def __init__(self, config: TransformerConfig, pattern: Memory) -> None:
        super().__init__()
        self.pattern = pattern
        self.heads = config.heads
        self.own = None
        self.query = nn.Linear(config.width, config.attention_width)
        self.memory = nn.Linear(config.width, 2 * config.attention_width)
        self.out = nn.Linear(config.attention_width, config.width)

    def forward(
        self, x: Tensor, norm: nn.Module, attend: Attend, memory: Tensor | None = None
    ) -> Tensor:
        """[B, T, W], to be normalised first, and a memory [B, S, W], which a cache may have kept
        -> what `out` takes, [B, T, H x D].
        """
        (q,) = _split(by_rows(partial(then_linear, norm, self.query), x), 1, self.heads)
        kept = attend.kept if isinstance(attend, MemoryCache) else None
        k, v = kept or _split(self.memory(memory), 2, self.heads)
        return _join(attend(q, k, v, self.pattern))


def _split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, T, parts x H x D] -> `parts` of [B, H, T, D]."""
    batch, length, _ = x.shape
    return x.view(batch, length, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _join(x: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, T, H x D]."""
    return x.transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """Attention and an MLP, each on a normalised residual stream."""

    def __init__(self, config: TransformerConfig, pattern: Pattern) -> None:
        super().__init__()
        self.scale = 1 / config.depth if config.res_scale else 1.0
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = (
            MemoryAttention(config, pattern)
            if isinstance(pattern, Memory)
            else Attention(config, cast(SelfPattern, pattern))
        )
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width),
            QuickGELU(),
            nn.Linear(config.mlp_width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend, memory: Tensor | None = None) -> Tensor:
        """[B, T, W] and a memory [B, S, W], if the layer reads one -> [B, T, W]."""
        mixed = self.attention(x, self.attention_norm, attend, memory)
        return by_rows(self._after, x, mixed)

    def _after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention, to each position alone: [.., W] and [.., H x D] -> [.., W]."""
        # The MLP reads the unscaled sum, and both branches are scaled together after it.
        inner = x + self.dropout(linear(self.attention.out, mixed))
        up, activation, down = self.mlp
        hidden = then_linear(self.mlp_norm, up, inner)
        both = inner + self.dropout(then_linear(activation, down, hidden))
        return both if self.scale == 1 else torch.lerp(x, both, self.scale)


class Transformer(nn.Module):
    """Layers with a cycle of attention patterns."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = AUTO
        """Name of the kernel that layers attend with unless told otherwise; no part of weights."""
        self.recompute = False
        """Keep only the layers' inputs for the backward pass and compute the rest again."""
        self.layers = nn.ModuleList(
            Layer(config, _pattern(config, layer)) for layer in range(config.depth)
        )
        for module in _linears(self):
            nn.init.normal_(module.weight, std=0.02 * config.init_scale)
            nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, attends: Sequence[Attend] | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """Run the first `len(attends)` layers.

        Args:
            x: [B, T, W], positions 0..T-1, or the next ones where `attends` are caches.
            attends: how each layer attends: kernels, or what stands in for them; all layers with
                the kernel named by `attention` unless given.
            memory: [B, S, W], for layers that read one.

        Returns:
            The residual stream [B, T, W]; there is no final norm.
        """
        chosen = Chosen(self.attention)
        attends = self.attends(chosen, chosen) if attends is None else attends
        keep = self.recompute and self.training and torch.is_grad_enabled()
        for layer, attend in zip(self.layers, attends, strict=False):
            if keep:
                x = checkpoint(layer, x, attend, memory, use_reentrant=False)
            else:
                x = layer(x, attend, memory)
        return x

    def attends(self, kernel: Attend, memory_kernel: Attend) -> list[Attend]:
        """How each layer attends: by its own attention, or else by these kernels.

        Args:
            kernel: for layers that look at their own sequence.
            memory_kernel: for layers that read a memory.
        """
        return [
            memory_kernel
            if isinstance(layer.attention, MemoryAttention)
            else layer.attention.own or kernel
            for layer in cast(Iterable[Layer], self.layers)
        ]

    def own(self, layer: int) -> LayerAttention | None:
        """The attention that a layer, counted from 0, has of its own; None if kernels attend."""
        return cast(Layer, self.layers[layer]).attention.own

    def caches(
        self, batch: int, kernel: Attend, memory_kernel: Attend, length: int | None = None
    ) -> list[LayerCache | MemoryCache]:
        """An empty cache for each layer, on the device and in the dtype of the weights.

        Args:
            batch: B.
            kernel: for passes over many positions.
            memory_kernel: for layers that read a memory.
            length: positions that will come; all by default.
        """
        weight = next(self.parameters())
        width = self.config.attention_width // self.config.heads
        made: list[LayerCache | MemoryCache] = []
        for layer in cast(Iterable[Layer], self.layers):
            pattern = layer.attention.pattern
            if isinstance(pattern, SelfPattern):
                made.append(
                    LayerCache(
                        pattern.at_most(length or self.config.context),
                        batch,
                        self.config.heads,
                        width,
                        kernel=layer.attention.own or kernel,
                        dtype=weight.dtype,
                        device=weight.device,
                    )
                )
            else:
                made.append(MemoryCache(memory_kernel))
        return made


def _linears(module: nn.Module) -> Iterator[nn.Linear]:
    """All linear layers, but for those of a layer's own attention, which begin as it likes."""
    for child in module.children():
        if isinstance(child, nn.Linear):
            yield child
        elif not isinstance(child, LayerAttention):
            yield from _linears(child)


def own_attention(config: TransformerConfig, pattern: SelfPattern) -> LayerAttention | None:
    """The attention that the config names, built for one layer; None if kernels attend.

    Raises:
        InputError: it is not installed, is no attention of a layer, or refuses config or pattern.
    """
    if config.attention is None:
        return None
    cls, settings = registry.restore(registry.ATTENTION, config.attention)
    if not issubclass(cls, LayerAttention):
        raise InputError(
            f"attention {config.attention.name!r} is a kernel, which no layer owns: choose it with "
            "--attention, not as a setting"
        )
    site = LayerSite(config.heads, config.attention_width // config.heads, pattern)
    with registry.blaming(cls, f"serve pattern {pattern.name!r}"):
        built: LayerAttention = cls(settings, site)
    return built


def _pattern(config: TransformerConfig, layer: int) -> Pattern:
    return make_pattern(
        config.pattern_of(layer),
        config.context,
        config.blocks,
        prefix=config.prefix,
        spread=config.spread,
    )
