"""The transformer: vectors in, vectors out, causal by its patterns. It knows no codes.

Pre-norm residual layers without a final norm (paper appendix B.2). Shapes:
B batch, T positions, W width, H heads, D width of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prior.attention.cache import LayerCache
from prior.attention.kernels import Attend
from prior.attention.pattern import Pattern, make_pattern
from prior.config import TransformerConfig


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, elementwise."""
        # Its identity with SiLU: one fused operation, whose backward pass keeps one tensor.
        return F.silu(1.702 * x) * (1 / 1.702)


class Attention(nn.Module):
    """Multi-head attention between two projections; how it attends is handed in."""

    def __init__(self, config: TransformerConfig, pattern: Pattern) -> None:
        super().__init__()
        self.pattern = pattern
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.attention_width)
        self.out = nn.Linear(config.attention_width, config.width)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, T, D]
        mixed = attend(q, k, v, self.pattern)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    """Attention and an MLP, each on a normalised residual stream."""

    def __init__(self, config: TransformerConfig, pattern: Pattern) -> None:
        super().__init__()
        self.scale = 1 / config.depth if config.res_scale else 1.0
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config, pattern)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width),
            QuickGELU(),
            nn.Linear(config.mlp_width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        attended = self.dropout(self.attention(self.attention_norm(x), attend))
        # The MLP reads the unscaled sum, and both branches are scaled together after it.
        inner = x + attended
        both = inner + self.dropout(self.mlp(self.mlp_norm(inner)))
        return both if self.scale == 1 else torch.lerp(x, both, self.scale)


class Transformer(nn.Module):
    """Layers with a cycle of attention patterns."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Keep only the layers' inputs for the backward pass and compute the rest again."""
        self.layers = nn.ModuleList(
            Layer(config, make_pattern(config.pattern_of(i), config.context, config.blocks))
            for i in range(config.depth)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02 * config.init_scale)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, attends: Sequence[Attend]) -> Tensor:
        """Run the first `len(attends)` layers.

        Args:
            x: [B, T, W], positions 0..T-1, or the next ones where `attends` are caches.
            attends: how each layer attends: kernels, or what stands in for them.

        Returns:
            The residual stream [B, T, W]; there is no final norm.
        """
        keep = self.recompute and self.training and torch.is_grad_enabled()
        for layer, attend in zip(self.layers, attends, strict=False):
            x = checkpoint(layer, x, attend, use_reentrant=False) if keep else layer(x, attend)
        return x

    def caches(self, batch: int, kernel: Attend) -> list[LayerCache]:
        """An empty cache for each layer, on the device and in the dtype of the weights."""
        width = self.config.attention_width // self.config.heads
        return [
            LayerCache(
                layer.attention.pattern,
                batch,
                self.config.heads,
                width,
                kernel=kernel,
                dtype=layer.attention.qkv.weight.dtype,
                device=layer.attention.qkv.weight.device,
            )
            for layer in self.layers
            if isinstance(layer, Layer)
        ]
