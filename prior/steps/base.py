"""The seam of one-token steps: who takes up a token and says what may come next.

A first pass over a prompt has filled the caches; steps go on from there, one code for each item at
a time. All kinds compute the same and can be swapped by name: `eager` is the plain one that the
others are compared with. It knows neither levels nor labels. Shapes: B batch, V tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from conditioning.base import Condition
from plugins.ground.errors import InputError
from prior.attention.cache import LayerCache, MemoryCache
from prior.config import PriorConfig
from prior.drawing import Drawing, choose
from prior.prior import Prior

Caches = Sequence[LayerCache | MemoryCache]


class Steps(ABC):
    """One-token steps for one batch.

    Args:
        prior: in evaluation mode.
        condition: of the batch, over the whole context.
        caches: of its layers.
        batch: B.
    """

    def __init__(self, prior: Prior, condition: Condition, caches: Caches, batch: int) -> None:
        self.prior, self.condition, self.caches, self.batch = prior, condition, caches, batch

    @classmethod
    @abstractmethod
    def why_not(cls, config: PriorConfig, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it can't serve such a prior there, in that precision; None if it can."""

    def begin(self) -> None:
        """A first pass has filled the caches anew."""
        return

    @abstractmethod
    def step(self, tokens: Tensor, position: int) -> Tensor:
        """Take up the tokens [B] of the code before `position`: logits [B, V] of it, on the CPU.

        Positions come in order, each once.
        """

    def run(
        self, tokens: Tensor, position: int, uniforms: Tensor | None, drawing: Drawing, stop: int
    ) -> Iterator[Tensor]:
        """Steps from `position` up to `stop`, each taking up what was drawn before: tokens [B].

        Args:
            tokens: [B] of the code before `position`.
            position: of the first code to draw.
            uniforms: [B, stop - position] float64 on the CPU; None takes the likeliest.
            drawing: how uniforms become codes.
            stop: behind the last.

        Raises:
            InputError: logits are not finite.
        """
        for turn in range(stop - position):
            with torch.inference_mode():
                logits = finite(self.step(tokens, position + turn), position + turn)
                at = None if uniforms is None else uniforms[:, turn]
                tokens = choose(logits, at, drawing).to(tokens.device)
            yield tokens


class EagerSteps(Steps):
    """PyTorch, one operation after the other."""

    @classmethod
    def why_not(cls, config: PriorConfig, device: torch.device, dtype: torch.dtype) -> str | None:
        """It serves everything."""
        return None

    def step(self, tokens: Tensor, position: int) -> Tensor:
        """See `Steps`."""
        prior, told = self.prior, self.condition.position
        x = prior.embedding(tokens[:, None]) + prior.positions[prior.prefix + position]
        if told is not None:
            x = x + told[:, position : position + 1]
        hidden = prior.transformer(x, self.caches)
        return prior.head(hidden[:, -1], None if told is None else told[:, position]).cpu()


def finite(logits: Tensor, position: int) -> Tensor:
    """The logits [B, V] of a position.

    Raises:
        InputError: they are not finite.
    """
    if not logits.isfinite().all():
        raise overflow(logits.dtype, position)
    return logits


def overflow(dtype: torch.dtype, position: int) -> InputError:
    """What to say where logits leave the range of their type."""
    kind = str(dtype).removeprefix("torch.")
    return InputError(
        f"the prior's logits leave the range of {kind} at code {position}: sample in "
        "bfloat16 or float32 (--dtype)"
    )
