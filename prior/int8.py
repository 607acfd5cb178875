"""Linear layers whose weights are kept in eight bits: a quarter of float32's memory and traffic.

Each output has a scale of its own, the largest weight of its row being 127 (symmetric, rounded to
nearest); inputs stay as they are. It knows no transformer. Shapes: N outputs, K inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prior.attention.base import LayerAttention
from prior.prior import Prior

LARGEST = 127


class Int8Linear(nn.Module):
    """What a linear layer computes, up to the rounding of its weights. It can't be trained.

    Args:
        linear: the layer; its bias is taken over.
    """

    weight: Tensor  # [N, K] int8
    scale: Tensor  # [N] float32

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        # A row of zeros has no largest weight to go by.
        scale = (weight.abs().amax(1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N], in the dtype of the input."""
        weight = self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype)
        return F.linear(x, weight, self.bias)


def use_int8(prior: Prior) -> Prior:
    """Keep the weights of a prior's layers in int8, in place; embeddings stay as they are.

    One layer after the other, so that there is never a second copy of them all.
    """
    _replace_linears(prior.transformer)
    return prior.eval()


def _replace_linears(module: nn.Module) -> None:
    """All linear layers, but for those of a layer's own attention, which nobody else knows."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        elif not isinstance(child, LayerAttention):
            _replace_linears(child)
