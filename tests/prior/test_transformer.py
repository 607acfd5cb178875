"""The transformer as arithmetic: layers, causality, recomputation, initial weights."""

import pytest
import torch
from pydantic import ValidationError

from prior.attention.kernels import Chosen
from prior.attention.pattern import PATTERNS, SelfPattern
from prior.config import TransformerConfig
from prior.transformer import Layer, Transformer

CYCLE = ("row", "column", "previous")
ALONE = [name for name, cls in PATTERNS.items() if issubclass(cls, SelfPattern)]


def config(**settings):
    shape = {"context": 12, "width": 16, "depth": 3, "heads": 2, "blocks": 3}
    if "prefix" in settings.get("patterns", ()):
        shape["prefix"] = 4
    return TransformerConfig(**{**shape, **settings})


def loud(module, seed=0):
    """The module with large random weights, so that nothing hides behind small initial ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module


def run(transformer, x, kernel="auto"):
    return transformer(x, [Chosen(kernel)] * len(transformer.layers))


@pytest.mark.parametrize("res_scale", [False, True])
def test_a_layer_is_the_arithmetic_of_the_reference(res_scale):
    """In float64, from the weights alone: dense attention with two heads, then the MLP."""
    shape = config(depth=4, patterns=("dense",), res_scale=res_scale, mlp_ratio=1.5)
    layer: Layer = loud(Transformer(shape).layers[0]).double()
    weights = dict(layer.named_parameters())
    x = torch.randn(2, 12, 16, dtype=torch.float64)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    projected = linear(norm(x, "attention_norm"), "attention.qkv")
    heads = []
    for head in range(2):
        q, k, v = (projected[..., 4 * part + 2 * head :][..., :2] for part in range(3))
        scores = (q @ k.mT / 2**0.5).masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v)
    attended = linear(torch.cat(heads, -1), "attention.out")
    hidden = linear(norm(x + attended, "mlp_norm"), "mlp.0")
    mixed = linear(hidden / (1 + torch.exp(-1.702 * hidden)), "mlp.2")
    assert hidden.shape[-1] == 24
    expected = x + (attended + mixed) * (1 / 4 if res_scale else 1)
    torch.testing.assert_close(layer(x, Chosen("auto")), expected)


@pytest.mark.parametrize("patterns", [*((name,) for name in ALONE), CYCLE], ids=str)
def test_a_position_reaches_itself_and_later_ones_only(patterns):
    transformer = loud(Transformer(config(patterns=patterns)))
    x = torch.randn(1, 12, 16)
    before = run(transformer, x)
    for t in range(12):
        moved = x.clone()
        moved[:, t] += 1
        changed = (run(transformer, moved) - before).abs().amax((0, 2)) > 1e-4
        assert not changed[:t].any()
        assert changed[t]


def test_the_cycle_carries_every_position_to_the_last():
    transformer = loud(Transformer(config(patterns=CYCLE)))
    x = torch.randn(1, 12, 16, requires_grad=True)
    (reach,) = torch.autograd.grad(run(transformer, x)[:, -1].sum(), x)
    assert (reach.abs().amax((0, 2)) > 0).all()


def test_patterns_are_a_cycle_over_the_layers():
    transformer = Transformer(config(depth=5, patterns=CYCLE))
    names = [layer.attention.pattern.name for layer in transformer.layers]
    assert names == ["row", "column", "previous", "row", "column"]


def test_kernels_can_be_swapped():
    transformer = loud(Transformer(config(patterns=CYCLE)))
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(
        run(transformer, x, "flash"), run(transformer, x, "naive"), atol=1e-5, rtol=1e-5
    )


def test_recomputation_changes_memory_but_no_gradient():
    transformer = loud(Transformer(config(dropout=0.3))).train()
    x = torch.randn(2, 12, 16)

    def gradients(recompute):
        """Output and gradients, and how many numbers were kept for the backward pass."""
        transformer.recompute = recompute
        torch.manual_seed(1)
        sizes = []

        def keep(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = run(transformer, x)
        found = torch.autograd.grad(out.square().sum(), transformer.parameters())
        return [out, *found], sum(sizes)

    plain, kept = gradients(False)
    recomputed, kept_less = gradients(True)
    for expected, got in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(got, expected)
    assert kept_less < kept / 4


def test_dropout_works_in_training_only():
    transformer = loud(Transformer(config(dropout=0.5)))
    x = torch.randn(1, 12, 16)
    assert not torch.equal(run(transformer.train(), x), run(transformer, x))
    assert torch.equal(run(transformer.eval(), x), run(transformer, x))


def test_initial_weights_have_the_scale_asked_for():
    weights = Transformer(config(width=256, init_scale=0.5)).layers[1].mlp[0]
    assert weights.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not weights.bias.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 5}, "context of 12 can't be folded into 5 blocks"),
        ({"heads": 3}, "attention width of 4 .* can't be split into 3 heads"),
        ({"width": 3, "heads": 1}, "attention width of 0"),
        ({"patterns": ("diagonal",)}, "'dense', 'row', 'column', 'previous', .* or 'prefix'"),
        ({"patterns": ()}, "at least 1 item"),
        ({"layers": 3}, "Extra inputs"),
    ],
)
def test_shapes_that_can_not_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_a_layer_reads_a_memory():
    """As arithmetic, from the weights alone."""
    shape = config(patterns=("memory",), memory=5, depth=1)
    layer = loud(Transformer(shape).layers[0]).double()
    x, memory = torch.randn(2, 12, 16).double(), torch.randn(2, 5, 16).double()
    own = layer.attention
    q = own.query(layer.attention_norm(x)).view(2, 12, 2, 2).transpose(1, 2)
    k, v = own.memory(memory).view(2, 5, 2, 2, 2).permute(2, 0, 3, 1, 4)
    heads = (q @ k.mT / 2**0.5).softmax(-1) @ v
    inner = x + own.out(heads.transpose(1, 2).reshape(2, 12, 4))
    expected = inner + layer.mlp(layer.mlp_norm(inner))
    torch.testing.assert_close(layer(x, Chosen("auto"), memory), expected)
