"""Residual blocks of dilated convolutions (paper appendix B.1, after WaveNet).

It knows neither levels nor codes. Shapes: B batch, D width, T positions.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from codec.config import ResidualConfig

__all__ = ["ResidualBlock", "ResidualConfig", "ResidualStack"]


class ResidualBlock(nn.Module):
    """ReLU, dilated convolution of 3, ReLU, convolution of 1, skip."""

    def __init__(self, width: int, hidden: int, dilation: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.dilated = nn.Conv1d(width, hidden, 3, padding=dilation, dilation=dilation)
        self.pointwise = nn.Conv1d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, T] -> [B, D, T]."""
        # In place where nothing needs the old values: memory decides the speed of long audio.
        branch = self.pointwise(F.relu(self.dilated(F.relu(x)), inplace=True))
        return (branch if self.scale == 1 else branch.mul_(self.scale)).add_(x)


class ResidualStack(nn.Module):
    """Residual blocks with the dilations that the config says."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        scale = config.depth**-0.5 if config.scaled else 1.0
        self.blocks = nn.Sequential(
            *(ResidualBlock(config.width, config.hidden, d, scale) for d in config.dilations)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, T] -> [B, D, T]."""
        return self.blocks(x)
