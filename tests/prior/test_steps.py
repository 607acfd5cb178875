"""Every kind of one-token steps against the plain one: eager PyTorch, which is tried elsewhere."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from music import SPEC

from conditioning.base import Window
from plugins.ground.errors import InputError
from plugins.registry import PluginRecord
from prior.config import preset
from prior.drawing import Drawing
from prior.engine import Engine
from prior.int8 import Int8Linear, use_int8
from prior.prior import NOTHING, Prior
from prior.steps import choosing, native
from prior.steps.native import NativeSteps
from prior.steps.static import CompiledSteps, StaticSteps

CONTEXT = 48
SHAPE = {"context": CONTEXT, "width": 40, "depth": 4, "heads": 2, "blocks": 6}
LYRICS = "la lo lu\nla li lo"


@pytest.fixture(autouse=True)
def _static_has_a_name(monkeypatch):
    monkeypatch.setitem(choosing.STEPS, "static", StaticSteps)


def prior_of(*patterns, conditioners=(), stream="1", **settings):
    shape = {**SHAPE, **settings}
    prior = Prior(preset("tiny", SPEC, stream, conditioners, patterns=patterns, **shape))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return prior.eval()


def codes_of(batch, length, size=12):
    return torch.randint(size, (batch, length), generator=torch.Generator().manual_seed(5))


def uniforms_of(batch, length):
    generator = torch.Generator().manual_seed(6)
    return torch.rand(batch, length, dtype=torch.float64, generator=generator)


def kept(name, **config):
    return PluginRecord(name=name, distribution="", version="", config=config)


ENCODER = {"width": 40, "depth": 2, "heads": 2, "blocks": 2}
KINDS = {
    "cycle": ((("row", "column", "previous", "dense"),), {}),
    "summaries": ((("summary", "spread", "row", "spread"),), {"spread": 3}),
    "unscaled": ((("previous", "row"),), {"mlp_ratio": 1.7, "separate_embeddings": True}),
    "scaled": ((("row", "column"),), {"res_scale": True, "depth": 5, "condition_output": False}),
    "odd sizes": ((("row", "column"),), {"width": 52, "heads": 1, "attention_ratio": 0.33}),
    "wide": ((("column", "previous"),), {"width": 200, "heads": 1, "depth": 2}),
    "labels": (
        (("row", "column"),),
        {"conditioners": [kept("artist", names=["a", "b"]), kept("timing", bins=8)]},
    ),
    "prefix": (
        (("row", "prefix", "dense"),),
        {"conditioners": [kept("lyrics_prefix", tokens=12)]},
    ),
    "memory": (
        (("row", "memory"),),
        {"conditioners": [kept("lyrics_memory", tokens=8, network=ENCODER)]},
    ),
    "memory with holes": (
        (("memory", "column"),),
        {"conditioners": [kept("lyrics_memory", tokens=32, network=ENCODER, mask_padding=True)]},
    ),
}


def made(kind, batch):
    """A prior of that kind and a Condition whose items differ."""
    (patterns,), settings = KINDS[kind]
    prior = prior_of(*patterns, **settings)
    songs = [{"artist": "ab"[i % 2], "lyrics": LYRICS[i:], "words": []} for i in range(batch)]
    items = [prior.prepare(song, Window(640 * i, 9000)) for i, song in enumerate(songs)]
    if not items[0]:
        return prior, NOTHING
    stacked = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    with torch.no_grad():
        return prior, prior.condition(stacked)


OTHERS = ("native", "static")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_plain_steps(kind, batch, name):
    prior, condition = made(kind, batch)
    codes = codes_of(batch, CONTEXT)
    for prompt in (0, 1, 7, 8, 9, 40):
        plain = Engine(prior, condition, batch, method="eager")
        engine = Engine(prior, condition, batch, method=name)
        assert torch.equal(plain.prefill(codes[:, :prompt]), engine.prefill(codes[:, :prompt]))
        for t in range(prompt, CONTEXT - 1):
            expected, got = plain.step(codes[:, t]), engine.step(codes[:, t])
            assert_near(got, expected)


def assert_near(got, expected):
    """Up to the rounding of sums, whose terms are as large as the largest."""
    size = expected.abs().max().item()
    torch.testing.assert_close(got, expected, atol=1e-5 * max(1, size), rtol=0)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_codes_are_those_of_the_plain_steps(batch, name):
    prior, condition = made("labels", batch)
    prompt, uniforms = codes_of(batch, 5), uniforms_of(batch, CONTEXT - 5)
    for drawing in (
        Drawing(),
        Drawing(temperature=0.5),
        Drawing(top_k=3),
        Drawing(top_k=12),
        Drawing(top_p=0.6),
        Drawing(1.3, 5, 0.9),
        None,
    ):
        given = (None, Drawing()) if drawing is None else (uniforms, drawing)
        plain = Engine(prior, condition, batch, method="eager").generate(prompt, CONTEXT, *given)
        engine = Engine(prior, condition, batch, method=name)
        assert torch.equal(engine.generate(prompt, CONTEXT, *given), plain)
        assert engine.position == CONTEXT - 1


def test_many_codes_are_drawn_alike_over_a_large_vocabulary():
    """Long enough for several calls, with nearly flat logits, so that every digit counts."""
    shape = {"context": 512, "blocks": 16, "width": 64}
    spec = SPEC.model_copy(
        update={"streams": tuple(s.model_copy(update={"vocab_size": 2048}) for s in SPEC.streams)}
    )
    prior = Prior(preset("tiny", spec, "1", (), patterns=("row", "column"), **{**SHAPE, **shape}))
    uniforms, nothing = uniforms_of(2, 512), torch.zeros(2, 0, dtype=torch.int64)
    plain, native = (
        Engine(prior, batch=2, method=name).generate(nothing, 512, uniforms)
        for name in ("eager", "native")
    )
    assert torch.equal(plain, native)
    assert len(plain.unique()) > 300


@pytest.mark.parametrize("drawing", [Drawing(top_k=2), Drawing(top_p=0.3)])
def test_ties_with_the_last_code_kept_are_kept(drawing):
    prior = prior_of("row")
    with torch.no_grad():
        prior.embedding.weight[4:8] = prior.embedding.weight[3]
    prompt, uniforms = codes_of(1, 3), uniforms_of(1, CONTEXT - 3)
    plain, native = (
        Engine(prior, method=name).generate(prompt, CONTEXT, uniforms, drawing)
        for name in ("eager", "native")
    )
    assert torch.equal(plain, native)


@pytest.mark.parametrize("kind", ["cycle", "memory", "wide"])
def test_native_numbers_depend_neither_on_threads_nor_on_the_batch(kind, monkeypatch):
    monkeypatch.setattr("prior.steps.native.SHARE", 1)
    prior, condition = made(kind, 1)
    codes, threads = codes_of(1, CONTEXT), torch.get_num_threads()
    logits = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(1)
            engine = Engine(prior, condition, method="native")
            engine.prefill(codes[:, :9])
            torch.set_num_threads(count)
            logits.append(torch.stack([engine.step(codes[:, t]) for t in range(9, CONTEXT - 1)]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    if condition is NOTHING:
        engine = Engine(prior, batch=7, method="native")
        engine.prefill(codes[:, :9].expand(7, -1))
        with torch.inference_mode():  # the first pass is PyTorch's, whose rounding may differ
            for cache in engine.caches:
                for held in (cache.keys, cache.values):
                    held.copy_(held[:1].clone())
        for t in range(9, CONTEXT - 1):
            both = engine.step(codes[:, t].expand(7))
            assert (both == both[0]).all()


def test_bfloat16_weights_are_computed_with_as_the_numbers_that_they_are():
    """Against float32 on the same numbers: the native path rounds no activation but the cache's."""
    prior, condition = made("labels", 2)
    half = prior_of(*KINDS["labels"][0][0], **KINDS["labels"][1]).bfloat16()
    with torch.no_grad():
        for parameter, rounded in zip(prior.parameters(), half.parameters(), strict=True):
            parameter.copy_(rounded)
    told = condition.position.bfloat16()
    exact = Engine(
        prior, type(condition)(start=condition.start, position=told.float()), 2, method="eager"
    )
    native = Engine(
        half,
        type(condition)(start=condition.start.bfloat16(), position=told),
        2,
        method="native",
    )
    codes = codes_of(2, CONTEXT)
    exact.prefill(codes[:, :1])
    native.prefill(codes[:, :1])
    for t in range(1, CONTEXT - 1):
        expected = exact.step(codes[:, t])
        got = native.step(codes[:, t])
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=0.03 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("kind", ["cycle", "odd sizes", "memory", "prefix"])
def test_int8_is_the_same_by_every_steps_and_near_the_weights_that_it_rounds(kind):
    prior, condition = made(kind, 2)
    codes = codes_of(2, CONTEXT)
    with torch.no_grad():
        exact = prior(codes, condition).logits
        use_int8(prior)
        rounded = prior(codes, condition).logits
    spread = exact.std()
    assert 0 < (rounded - exact).abs().mean() < 0.05 * spread
    plain, native = (Engine(prior, condition, 2, method=name) for name in ("eager", "native"))
    assert torch.equal(plain.prefill(codes[:, :9]), native.prefill(codes[:, :9]))
    for t in range(9, CONTEXT - 1):
        expected, got = plain.step(codes[:, t]), native.step(codes[:, t])
        assert_near(got, expected)


def test_int8_weights_take_a_quarter_of_the_memory_and_keep_the_largest_exactly():
    linear = torch.nn.Linear(64, 32)
    with torch.no_grad():
        linear.weight[3] = 0
    kept = Int8Linear(linear)
    assert kept.weight.nbytes * 4 == linear.weight.nbytes
    restored = kept.weight.float() * kept.scale[:, None]
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    assert ((restored - linear.weight).abs() <= step / 2 + 1e-9).all()
    largest = linear.weight.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(restored.gather(1, largest), linear.weight.gather(1, largest))
    prior = use_int8(prior_of("row"))
    linears = [m for m in prior.transformer.modules() if isinstance(m, torch.nn.Linear)]
    assert not linears


@pytest.mark.parametrize("name", ["eager", "native"])
def test_logits_that_are_not_finite_end_in_a_line_that_says_where(name):
    prior = prior_of("row", "column")
    with torch.no_grad():
        prior.positions[20] = float("inf")
    made, engine = [], Engine(prior, method=name)
    uniforms = uniforms_of(1, CONTEXT)
    with pytest.raises(InputError, match="leave the range of float32 at code 20"):
        made.extend(engine.stream(codes_of(1, 0), CONTEXT, uniforms))
    whole = prior_of("row", "column")
    expected = Engine(whole, method="eager").generate(codes_of(1, 0), 20, uniforms[:, :20])
    got = [code.item() for code in made[:20]]
    assert got == expected[0].tolist()
    assert len(made) in (20, 21)


def test_python_and_cpp_mean_the_same_structs():
    sizes = (ctypes.c_int32 * 4)()
    native.library().jukebox_sizes(sizes)
    ours = (native._Matrix, native._Layer, native._Model, native._Drawing)
    assert list(sizes) == [ctypes.sizeof(struct) for struct in ours]


def test_auto_takes_native_steps_on_a_cpu_and_eager_ones_where_they_can_not_serve():
    assert isinstance(Engine(prior_of("row")).steps, NativeSteps)
    assert type(Engine(prior_of("row").half()).steps) is choosing.EagerSteps


def test_a_prompt_comes_first():
    with pytest.raises(InputError, match="prefill it first"):
        Engine(prior_of("row")).step(codes_of(1, 1)[:, 0])


def test_engines_that_can_not_serve_say_why():
    prior = prior_of("row")
    with pytest.raises(InputError, match="no engine 'fast'; there are: auto, eager, compiled"):
        Engine(prior, method="fast")
    with pytest.raises(InputError, match="engine 'graphs' can't serve this: cpu has no CUDA"):
        Engine(prior, method="graphs")
    with pytest.raises(InputError, match=r"engine 'native' .* not in torch\.float16"):
        Engine(prior.half(), method="native")


SCRIPT = """
import torch
from prior.config import preset
from prior.engine import Engine
from prior.prior import Prior
from codec.tokens import TokenSpec

spec = TokenSpec.model_validate_json('''{spec}''')
prior = Prior(preset("tiny", spec, "1", (), context=32, width=32, depth=2, heads=2, blocks=4))
engine = Engine(prior)
print(type(engine.steps).__name__)
print(engine.generate(torch.zeros(1, 0, dtype=torch.int64), 8).shape)
try:
    Engine(prior, method="native")
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("missing", [{"JUKEBOX_NATIVE": "0"}, {"CXX": "no-such-compiler"}])
def test_without_a_compiler_sampling_goes_on(missing):
    script = SCRIPT.format(spec=SPEC.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **missing},
        capture_output=True,
        text=True,
        check=True,
    )
    kind, shape, refusal = done.stdout.splitlines()
    assert (kind, shape) == ("EagerSteps", "torch.Size([1, 8])")
    assert "engine 'native' can't serve this: there is no C++ to call" in refusal
    warned = "CXX" in missing
    assert ("going on without native code, slower: no C++ compiler" in done.stderr) == warned


def test_compiled_steps_give_the_same_codes(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    prior = prior_of("row", "column", "previous", depth=3)
    prompt, uniforms = codes_of(2, 5), uniforms_of(2, CONTEXT - 5)
    plain = Engine(prior, batch=2, method="eager").generate(prompt, CONTEXT, uniforms)
    engine = Engine(prior, batch=2, method="compiled")
    assert isinstance(engine.steps, CompiledSteps)
    assert torch.equal(engine.generate(prompt, CONTEXT, uniforms), plain)
    assert any(tmp_path.iterdir())
