"""Layers that keep less for their backward pass: the numbers of plain ones, from fewer bytes."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prior import lean
from prior.config import TransformerConfig
from prior.lean import by_rows, linear, surprise, then_linear
from prior.transformer import QuickGELU, Transformer

CYCLE = ("row", "column", "previous")


def drawn(module, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.to(dtype)


def pair(kind, dtype=torch.float32, bias=True):
    """What comes first, and the linear layer after it."""
    first = nn.LayerNorm(8) if kind == "norm" else QuickGELU()
    return drawn(first, dtype), drawn(nn.Linear(8, 6, bias=bias), dtype)


def gradients(result, *tensors):
    weight = torch.linspace(-1, 1, result.numel()).view(result.shape).to(result.dtype)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    return torch.autograd.grad((result * weight).sum(), wanted)


def kept(work):
    """Bytes that a call keeps for its backward pass, each storage once, parameters not counted."""
    seen = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()  # held, so that no storage is used again
    assert result.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("kind", ["norm", "gelu"])
def test_gradients_are_right_in_float64(kind):
    first, after = pair(kind, torch.float64)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)

    def work(x, *_):
        return then_linear(first, after, x)

    assert torch.autograd.gradcheck(work, (x, *first.parameters(), *after.parameters()))


@pytest.mark.parametrize(
    ("kind", "bias", "autocast"), [*product(["norm", "gelu"], [True, False], [False, True])]
)
def test_values_and_gradients_are_those_of_plain_modules(kind, bias, autocast):
    first, after = pair(kind, bias=bias)
    x = torch.randn(2, 3, 8, requires_grad=True)
    tensors = (x, *first.parameters(), *after.parameters())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain, made = after(first(x)), then_linear(first, after, x)
    assert made.dtype == plain.dtype == (torch.bfloat16 if autocast else torch.float32)
    tolerance = {"rtol": 0.03, "atol": 0.1} if autocast else {}
    torch.testing.assert_close(made, plain, **tolerance)
    for ours, theirs in zip(gradients(made, *tensors), gradients(plain, *tensors), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_what_is_frozen_gets_no_gradient():
    first, after = pair("norm")
    x = torch.randn(3, 8)
    tensors = [x, first.weight, first.bias, after.weight, after.bias]
    for chosen in product([False, True], repeat=5):
        if any(chosen):
            for tensor, needed in zip(tensors, chosen, strict=True):
                tensor.requires_grad_(needed)
            ours = gradients(then_linear(first, after, x), *tensors)
            torch.testing.assert_close(ours, gradients(after(first(x)), *tensors))


def test_one_layer_used_twice_collects_both_gradients():
    first, _ = pair("norm")
    square = drawn(nn.Linear(8, 8))
    x = torch.randn(3, 8, requires_grad=True)
    tensors = (x, *first.parameters(), *square.parameters())
    ours = then_linear(first, square, then_linear(first, square, x))
    torch.testing.assert_close(
        gradients(ours, *tensors), gradients(square(first(square(first(x)))), *tensors)
    )


def test_other_layers_and_hooks_are_called_as_they_are():
    first, after = pair("norm")
    x = torch.randn(3, 8)
    calls = []
    handle = after.register_forward_hook(lambda *_: calls.append("hook"))
    then_linear(first, after, x)
    with torch.no_grad():
        linear(after, x)
    assert calls == ["hook"] * 2
    handle.remove()
    torch.nn.utils.parametrizations.weight_norm(after)
    torch.testing.assert_close(then_linear(first, after, x), after(first(x)))


def test_rows_apart_are_rows_together(monkeypatch):
    monkeypatch.setattr(lean, "CACHED", 1)
    x, y = torch.randn(2, 300, 8), torch.randn(2, 300, 3)
    sizes = []

    def work(x, y):
        sizes.append(len(x))
        return torch.cat([x, y], -1).flip(-1)

    expected = torch.cat([x, y], -1).flip(-1)
    with torch.no_grad():
        assert torch.equal(by_rows(work, x, y), expected)
    assert sizes == [128] * 4 + [88]
    assert torch.equal(by_rows(lambda *both: torch.cat(both, -1).flip(-1), x, y), expected)


def test_many_rows_without_gradients_are_those_with(monkeypatch):
    monkeypatch.setattr(lean, "CACHED", 1 << 12)
    transformer = drawn(
        Transformer(TransformerConfig(context=300, width=32, depth=3, heads=2, blocks=10))
    )
    x = torch.randn(2, 300, 32)
    with torch.no_grad():
        apart = transformer(x)
    torch.testing.assert_close(apart, transformer(x), rtol=1e-4, atol=1e-3 * apart.std().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_surprise_is_cross_entropy_with_its_gradients(dtype, monkeypatch):
    monkeypatch.setattr(lean, "CACHED", 1)
    hidden = torch.randn(300, 8).to(dtype).requires_grad_()
    table = torch.randn(11, 8).to(dtype).requires_grad_()
    tokens, shares = torch.randint(11, (300,)), torch.rand(300)
    total, surprises = surprise(hidden, table, tokens, shares)
    wide = torch.promote_types(dtype, torch.float32)
    each = F.cross_entropy((hidden @ table.T).to(wide), tokens, reduction="none")
    assert not surprises.requires_grad
    torch.testing.assert_close(surprises, each)
    expected = (each * shares).sum()
    torch.testing.assert_close(total, expected)
    loose = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
    ours = torch.autograd.grad(3 * total, (hidden, table), retain_graph=True)
    theirs = torch.autograd.grad(3 * expected, (hidden, table))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **loose)
    again = torch.autograd.grad(3 * total, (hidden, table))
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(surprise(hidden, table, tokens, shares)[0], total)


def test_surprise_under_autocast_computes_in_bfloat16_and_gives_float32():
    hidden, table = torch.randn(40, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    tokens, shares = torch.randint(11, (40,)), torch.rand(40)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = surprise(hidden, table, tokens, shares)
        each = F.cross_entropy(F.linear(hidden, table).float(), tokens, reduction="none")
    torch.testing.assert_close(total, (each * shares).sum())
    ours = torch.autograd.grad(total, (hidden, table))
    theirs = torch.autograd.grad((each * shares).sum(), (hidden, table))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_a_layer_keeps_its_input_and_what_matrix_products_made():
    """x, q, k, v, what attention mixed, the sum, and the MLP's hidden layer; nothing twice."""
    shape = TransformerConfig(context=64, width=32, depth=3, heads=2, blocks=8, patterns=CYCLE)
    transformer = drawn(Transformer(shape))
    x = torch.randn(3, 64, 32, requires_grad=True)
    log_sums = 3 * 64 * 2 * 4 * shape.depth  # a number for each query and head, of the softmax
    once = x.numel() * 4
    assert kept(lambda: transformer(x)) == (1 + 0.75 + 0.25 + 1 + 1) * once * 3 + log_sums


def test_the_loss_keeps_no_logits():
    hidden, table = torch.randn(500, 8, requires_grad=True), torch.randn(99, 8, requires_grad=True)
    tokens, shares = torch.randint(99, (500,)), torch.rand(500)
    assert kept(lambda: surprise(hidden, table, tokens, shares)[0]) == hidden.nbytes + table.nbytes
