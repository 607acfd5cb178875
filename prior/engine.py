"""The engine: one code after another, from caches. It knows neither levels nor labels.

It does not know where uniforms come from either: it draws with those it is handed, by inverse
CDF, so a result depends on nothing else. Tokens are what the prior predicts: codes, numbered
behind the tokens of its prefix, if it has one. Shapes:
B batch, P codes of a prompt, V tokens, W width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from conditioning.base import Condition
from plugins.ground.errors import InputError
from prior.drawing import PLAIN, Drawing, choose
from prior.prior import NOTHING, Prior
from prior.steps.base import finite
from prior.steps.choosing import AUTO, pick_steps


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
        method: str = AUTO,
    ) -> None:
        """Allocate the caches.

        Args:
            prior: put into evaluation mode.
            condition: of the batch, over the whole context.
            batch: B.
            length: codes that there will be at most, prompt included; the context by default.
            method: who makes the steps, a name of `prior.steps.choosing.STEPS`; "auto": the
                fastest that can serve.

        Raises:
            InputError: the method can't serve this prior.
        """
        self.prior = prior.eval()
        self.condition = condition
        self.batch = batch
        self.position = 0
        """Codes known so far, and the position that the last logits are for."""
        self._filled = False
        """A first pass was here."""
        self.length = prior.config.context if length is None else length
        with torch.inference_mode():
            self.caches = prior.transformer.caches(
                batch, prior.kernel, prior.memory_kernel(condition), prior.prefix + self.length
            )
        weight = prior.embedding.weight
        kind = pick_steps(method, prior.config, weight.device, weight.dtype)
        self.steps = kind(self.prior, condition, self.caches, batch)

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
        hidden = prior.transformer(x, self.caches, self.condition.memory)[:, -1]
        told = self.condition.position
        logits = prior.head(hidden, None if told is None else told[:, length]).cpu()
        self.position = length
        self._filled = True
        self.steps.begin()
        return finite(logits, length)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Take up one more token for each item [B]: logits [B, V] of the one after it, on the CPU.

        Raises:
            InputError: there is no room for it, `prefill` was not called yet, or the logits are not
                finite.
        """
        if not self._filled:
            raise InputError("steps go on from a prompt, which may be empty: prefill it first")
        if self.position + 1 >= self.length:
            raise InputError(f"the {self.length} codes that there is room for are there")
        self.position += 1
        return finite(self.steps.step(tokens, self.position), self.position)

    def stream(
        self, prompt: Tensor, stop: int, uniforms: Tensor | None = None, drawing: Drawing = PLAIN
    ) -> Iterator[Tensor]:
        """As `generate`, giving the new codes [B] of one position after the other."""
        return map(self._codes, self._tokens(prompt, stop, uniforms, drawing))

    def _tokens(
        self, prompt: Tensor, stop: int, uniforms: Tensor | None, drawing: Drawing
    ) -> Iterator[Tensor]:
        """What `stream` gives, as tokens [B]."""
        self._check(prompt, stop, uniforms)
        position = prompt.shape[1]
        if position == stop:
            return
        chances = None if uniforms is None else uniforms.cpu()
        with torch.inference_mode():
            first = None if chances is None else chances[:, 0]
            tokens = choose(self.prefill(prompt), first, drawing).to(prompt.device)
        yield tokens
        rest = None if chances is None else chances[:, 1:]
        for drawn in self.steps.run(tokens, position + 1, rest, drawing, stop):
            self.position += 1
            yield drawn

    def _codes(self, tokens: Tensor) -> Tensor:
        """What tokens [B, ...] are as codes; one of the prefix's vocabulary, which a trained prior
        hardly ever draws, is fed back as it is, but no code.
        """
        return (tokens - self.prior.prefix_vocab).clamp(min=0)

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
        new = list(self._tokens(prompt, stop, uniforms, drawing))
        return torch.cat([prompt, self._codes(torch.stack(new, 1))], 1) if new else prompt

    def _check(self, prompt: Tensor, stop: int, uniforms: Tensor | None) -> None:
        length = prompt.shape[1]
        if not length <= stop <= self.length:
            raise InputError(f"can't go from {length} to {stop} codes: room is for {self.length}")
        wanted = (self.batch, stop - length)
        if uniforms is not None and tuple(uniforms.shape) != wanted:
            raise InputError(f"uniforms of shape {tuple(uniforms.shape)} instead of {wanted}")
