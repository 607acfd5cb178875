"""The engine: one code after another, from caches. It knows neither levels nor labels.

It does not know where uniforms come from either: it draws with those it is handed, by inverse
CDF, so a result depends on nothing else. Tokens are what the prior predicts: codes, numbered
behind the tokens of its prefix, if it has one. Shapes:
B batch, P codes of a prompt, V tokens, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from conditioning.base import Condition
from plugins.ground.errors import InputError
from prior.prior import NOTHING, Prior


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


class Engine:
    """A prior with caches for one batch of windows.

    `generate` makes a window's codes; `prefill` and `step` are its parts. An engine can be used
    again for the same Condition: each `prefill` begins anew.
    """

    def __init__(
        self,
        prior: Prior,
        condition: Condition = NOTHING,
        batch: int = 1,
        length: int | None = None,
    ) -> None:
        """Allocate the caches.

        Args:
            prior: put into evaluation mode.
            condition: of the batch, over the whole context.
            batch: B.
            length: codes that there will be at most, prompt included; the context by default.
        """
        self.prior = prior.eval()
        self.condition = condition
        self.batch = batch
        self.position = 0
        """Codes known so far, and the position that the last logits are for."""
        self.length = prior.config.context if length is None else length
        with torch.inference_mode():
            self.caches = prior.transformer.caches(
                batch, prior.kernel, prior.memory_kernel(condition), prior.prefix + self.length
            )

    @torch.inference_mode()
    def prefill(self, codes: Tensor) -> Tensor:
        """Take up a prompt [B, P], which may be empty, in one pass: logits [B, V] of code P, on
        the CPU.

        Raises:
            InputError: the prompt leaves no room, or has another batch; the Condition lacks what
                this prior needs.
        """
        prior, length = self.prior, codes.shape[1]
        prior.check(self.condition)
        if len(codes) != self.batch or length >= self.length:
            raise InputError(
                f"a prompt of shape {list(codes.shape)} for a batch of {self.batch} and "
                f"{self.length} codes in all"
            )
        for cache in self.caches:
            cache.clear()
        x = prior.inputs(codes, self.condition)
        self.position = length
        return self._logits(prior.transformer(x, self.caches, self.condition.memory))

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Take up one more token for each item [B]: logits [B, V] of the one after it, on the CPU.

        Raises:
            InputError: there is no room for it, or the logits are not finite.
        """
        prior, told, position = self.prior, self.condition.position, self.position + 1
        if position >= self.length:
            raise InputError(f"the {self.length} codes that there is room for are there")
        self.position = position
        x = prior.embedding(tokens[:, None]) + prior.positions[prior.prefix + position]
        if told is not None:
            x = x + told[:, position : position + 1]
        return self._logits(prior.transformer(x, self.caches))

    def _logits(self, hidden: Tensor) -> Tensor:
        told = self.condition.position
        logits = self.prior.head(
            hidden[:, -1], None if told is None else told[:, self.position]
        ).cpu()
        if not logits.isfinite().all():
            kind = str(logits.dtype).removeprefix("torch.")
            raise InputError(
                f"the prior's logits leave the range of {kind} at code {self.position}: sample in "
                "bfloat16 or float32 (--dtype)"
            )
        return logits

    def stream(
        self, prompt: Tensor, stop: int, uniforms: Tensor | None = None, drawing: Drawing = PLAIN
    ) -> Iterator[Tensor]:
        """As `generate`, giving the new codes [B] of one position after the other."""
        self._check(prompt, stop, uniforms)
        tokens = prompt
        for turn in range(stop - prompt.shape[1]):
            logits = self.step(tokens) if turn else self.prefill(prompt)
            with torch.inference_mode():
                if uniforms is None:
                    drawn = logits.argmax(-1)
                else:
                    drawn = draw(filter_logits(logits, drawing), uniforms[:, turn].cpu())
                tokens = drawn.to(prompt.device)
            # A token of the prefix's vocabulary, which a trained prior hardly ever draws, is fed
            # back as it is, but no code.
            yield (tokens - self.prior.prefix_vocab).clamp(min=0)

    def generate(
        self, prompt: Tensor, stop: int, uniforms: Tensor | None = None, drawing: Drawing = PLAIN
    ) -> Tensor:
        """Go on from a prompt until there are `stop` codes.

        Args:
            prompt: [B, P] int64, P from 0 to `stop`.
            stop: codes wanted, up to the engine's length.
            uniforms: [B, stop - P] float64 in [0, 1), one for each new code; None takes the
                likeliest codes (the first of equals).
            drawing: how uniforms become codes.

        Returns:
            The prompt and the new codes, [B, stop].

        Raises:
            InputError: shapes that don't fit.
        """
        new = list(self.stream(prompt, stop, uniforms, drawing))
        return torch.cat([prompt, torch.stack(new, 1)], 1) if new else prompt

    def _check(self, prompt: Tensor, stop: int, uniforms: Tensor | None) -> None:
        length = prompt.shape[1]
        if not length <= stop <= self.length:
            raise InputError(f"can't go from {length} to {stop} codes: room is for {self.length}")
        wanted = (self.batch, stop - length)
        if uniforms is not None and tuple(uniforms.shape) != wanted:
            raise InputError(f"uniforms of shape {tuple(uniforms.shape)} instead of {wanted}")
