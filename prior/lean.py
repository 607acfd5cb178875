"""Layers over many positions with less memory and less traffic; it knows no transformer.

In training, what stands before a linear layer (a norm, an activation) costs next to nothing beside
it, but its output is as large. So that is not kept for the backward pass, which makes it again; no
matrix product is computed twice. The same holds for the logits, which are many times as large as
what they are made from. Without gradients, a few rows at a time go through all that is done to
rows alone. The results are those of plain modules, to rounding. Shapes:
N rows (all axes but the last), I and O features, W width, V tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

CACHED = 1 << 20
"""Numbers that stay in a CPU's cache from one operation to the next."""
MANY = 128
"""Rows from which on oneDNN's matrix product pays."""
_onednn = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)


def by_rows(work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`work(*inputs)`, a few rows at a time where that is faster: on a CPU, without gradients.

    Args:
        work: makes [N, O] from the inputs, each row from the same row of theirs alone.
        inputs: [..., I], alike but for I.
    """
    x = inputs[0]
    rows = max(MANY, CACHED // x.shape[-1])
    count = x.shape[:-1].numel()
    if torch.is_grad_enabled() or x.device.type != "cpu" or count <= rows:
        return work(*inputs)
    parts = zip(*(one.flatten(0, -2).split(rows) for one in inputs), strict=True)
    first = work(*next(parts))
    made = first.new_empty(count, first.shape[-1])
    made[:rows] = first
    for start, part in zip(range(rows, count, rows), parts, strict=True):
        made[start : start + rows] = work(*part)
    return made.view(*x.shape[:-1], -1)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: [..., I], [O, I] and [O] -> [..., O].

    PyTorch hands float32 to MKL, which on AMD takes a tenth or two longer than oneDNN, though not
    where rows are summed over, as for the gradient of weights.
    """
    if (
        _onednn is not None
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.shape[:-1].numel() >= MANY
        and _computed_in(x) == torch.float32
    ):
        made: Tensor = _onednn(x, weight, bias, "none", [], "")
        return made
    return F.linear(x, weight, bias)


def linear(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`, of a linear layer or what stands in its place, by the fastest product."""
    if not _plain(module):
        made: Tensor = module(x)
    elif torch.is_grad_enabled():
        made = _ThenLinear.apply(_itself, x, module.weight, module.bias)
    else:
        made = product(x, module.weight, module.bias)
    return made


def then_linear(first: nn.Module, module: nn.Module, x: Tensor) -> Tensor:
    """`module(first(x))`, [..., I] -> [..., O], whose backward pass keeps x, not first(x).

    Args:
        first: cheap, elementwise or by rows, with no state but parameters and nothing random.
        module: a linear layer. Where it is something else in its place, or somebody hooks into
            either, both are called as they are.
        x: of the shape of `first(x)`.
    """
    if not torch.is_grad_enabled() or _hooked(first) or not _plain(module):
        return linear(module, first(x))
    parameters = dict(first.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        made: Tensor = functional_call(first, dict(zip(parameters, values, strict=True)), x)
        return made

    both: Tensor = _ThenLinear.apply(call, x, module.weight, module.bias, *parameters.values())
    return both


class _ThenLinear(torch.autograd.Function):
    """A function of x and parameters, then a linear layer; what is between them is made twice."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.first, ctx.autocast = first, _same_autocast(x.device.type)
        ctx.save_for_backward(x, weight, *parameters)
        made = first(x, *parameters)
        # By hand, since autocast would keep what it casts here, where nothing has gradients.
        kind = _computed_in(made)
        return product(made.to(kind), weight.to(kind), None if bias is None else bias.to(kind))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parameters = ctx.saved_tensors
        _, x_counts, weight_counts, bias_counts, *others_count = ctx.needs_input_grad
        counts = [x_counts, *others_count]
        with ctx.autocast(), torch.enable_grad():
            given = [
                one.detach().requires_grad_(needed)
                for one, needed in zip([x, *parameters], counts, strict=True)
            ]
            made = ctx.first(*given)
        rows, kept = grad.flatten(0, -2), made.detach().flatten(0, -2).to(grad.dtype)
        for_weight = rows.T @ kept if weight_counts else None
        for_bias = rows.sum(0) if bias_counts else None
        del kept
        found: Iterator[Tensor] = iter(())
        if any(counts):
            for_made = product(grad, weight.to(grad.dtype).T).to(made.dtype)
            wanted = [one for one in given if one.requires_grad]
            found = iter(torch.autograd.grad(made, wanted, for_made))
        for_x, *for_others = [next(found) if needed else None for needed in counts]
        return None, for_x, for_weight, for_bias, *for_others


def surprise(
    hidden: Tensor, table: Tensor, tokens: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of tokens [N] given hidden vectors [N, W] and output embeddings [V, W].

    The logits of few rows exist at a time: their gradient is known as soon as they are, since it
    is known what each row counts.

    Args:
        hidden: what the logits are made from.
        table: what with.
        tokens: which were right.
        shares: [N], what the surprise of each counts in the sum.

    Returns:
        The sum [], which has gradients, and the surprises [N] in nats, which have none.
    """
    both: tuple[Tensor, Tensor] = _Surprise.apply(
        hidden, table, tokens, shares, torch.is_grad_enabled()
    )
    return both


class _Surprise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, tokens: Tensor, shares: Tensor, grad: bool
    ) -> tuple[Tensor, Tensor]:
        needed = [grad and one for one in ctx.needs_input_grad[:2]]
        for_hidden = torch.empty_like(hidden) if needed[0] else None
        for_table = torch.zeros_like(table) if needed[1] else None
        made = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        kind = _computed_in(hidden)
        cast = table.to(kind)
        rows = max(MANY, CACHED // len(table))
        for start in range(0, len(hidden), rows):
            here = slice(start, start + rows)
            some, right = hidden[here].to(kind), tokens[here, None]
            chances = product(some, cast).to(made.dtype).log_softmax(-1)
            made[here] = -chances.gather(1, right)[:, 0]
            if not any(needed):
                continue
            # The slope by the logits: the chances, less 1 for the token that was right.
            slope = chances.exp_().scatter_add_(1, right, chances.new_full(right.shape, -1))
            slope = slope.mul_(shares[here, None]).to(kind)
            if for_hidden is not None:
                for_hidden[here] = product(slope, cast.T)
            if for_table is not None:
                for_table += slope.T @ some
        ctx.save_for_backward(for_hidden, for_table)
        ctx.mark_non_differentiable(made)
        return (made * shares).sum(), made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if one is None else one * grad for one in ctx.saved_tensors]
        return *scaled, None, None, None


def _itself(x: Tensor) -> Tensor:
    return x


def _plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear layer and nothing else happens where it is called."""
    return type(module) is nn.Linear and not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _computed_in(x: Tensor) -> torch.dtype:
    """What a matrix product of x is computed in."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _same_autocast(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes contexts in which autocast is as it is now."""
    kind, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return lambda: torch.autocast(device, kind, enabled)
