"""How codes are chosen by their logits: by inverse CDF, from uniforms that are handed in.

It knows no network and no random numbers of its own. Shapes: B batch, V tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from plugins.ground.errors import InputError


@dataclass(frozen=True)
class Drawing:
    """How codes are chosen by their logits.

    Raises:
        InputError: a setting can't be.
    """

    temperature: float = 1.0
    """Logits are divided by it, before anything is dropped."""
    top_k: int = 0
    """Keep the k likeliest codes and those that tie with the last; 0 keeps all."""
    top_p: float = 0.0
    """Keep a code if those likelier than it hold less than this probability (Holtzman et al. 2019,
    arXiv 1904.09751), of what `top_k` left; 0 keeps all."""

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.top_k >= 0 and 0 <= self.top_p <= 1):
            raise InputError(
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}: needed "
                "are a temperature above 0, top_k of 0 or more and top_p from 0 to 1"
            )


PLAIN = Drawing()


def filter_logits(logits: Tensor, drawing: Drawing = PLAIN) -> Tensor:
    """Scale logits [B, V] of one position and drop unlikely codes, in float64; -inf if dropped.

    On the CPU, since MPS has no float64, and so that equal logits give equal draws everywhere.
    """
    scaled = logits.cpu().double() / drawing.temperature
    if 0 < drawing.top_k < scaled.shape[-1]:
        least = scaled.topk(drawing.top_k, -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if 0 < drawing.top_p < 1:
        ordered, _ = scaled.sort(-1, descending=True)
        chances = ordered.softmax(-1)
        kept = (chances.cumsum(-1) - chances < drawing.top_p).sum(-1, keepdim=True)
        least = ordered.gather(-1, (kept - 1).clamp(min=0))
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    return scaled


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw codes [B] by inverse CDF.

    Args:
        logits: [B, V] on the CPU; codes at -inf are never drawn.
        uniforms: [B] float64 in [0, 1), on the CPU.

    Returns:
        The first code, in order of number, whose cumulative probability exceeds the uniform.
    """
    rising = logits.double().softmax(-1).cumsum(-1)
    # Divided by the last, so that rounding can't leave a uniform above all of them.
    rising /= rising[:, -1:].clone()
    return torch.searchsorted(rising, uniforms[:, None].contiguous(), right=True)[:, 0]


def choose(logits: Tensor, uniforms: Tensor | None, drawing: Drawing = PLAIN) -> Tensor:
    """Codes [B] for logits [B, V] on the CPU: drawn with uniforms [B], or the likeliest, the first
    of equals, if there are none.
    """
    if uniforms is None:
        return logits.argmax(-1)
    return draw(filter_logits(logits, drawing), uniforms.cpu())
