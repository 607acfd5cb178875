"""The engine: draws against a loop in numpy, steps against whole passes."""

import numpy as np
import pytest
import torch

from codec.tokens import TokenSpec, TokenStream
from conditioning.base import Condition
from plugins.ground.errors import InputError
from prior.config import preset
from prior.drawing import Drawing, draw, filter_logits
from prior.engine import Engine
from prior.prior import Prior

VOCAB, CONTEXT = 7, 20
SPEC = TokenSpec(
    sample_rate=22050,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=VOCAB, hop_length=32),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)


def prior_of(*patterns, **settings):
    shape = {"context": CONTEXT, "width": 16, "depth": 4, "heads": 2, "blocks": 5}
    prior = Prior(preset("tiny", SPEC, "0", patterns=patterns, **shape, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return prior.eval()


def condition_of(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Condition(
        start=torch.randn(batch, 1, 16, generator=generator),
        position=torch.randn(batch, CONTEXT, 16, generator=generator),
    )


def codes_of(batch, length=CONTEXT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (batch, length), generator=generator)


def uniforms_of(batch, length=CONTEXT, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((batch, length)))


CYCLE = ("row", "column", "previous", "dense")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("patterns", [*((name,) for name in CYCLE), CYCLE], ids=str)
def test_steps_give_the_logits_of_a_whole_pass(patterns, batch):
    prior, codes = prior_of(*patterns), codes_of(batch)
    condition = condition_of(batch)
    whole = prior(codes, condition).logits
    engine = Engine(prior, condition, batch)
    for prompt in range(CONTEXT):
        logits = [engine.prefill(codes[:, :prompt])]
        logits += [engine.step(codes[:, t]) for t in range(prompt, CONTEXT - 1)]
        torch.testing.assert_close(torch.stack(logits, 1), whole[:, prompt:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("condition_output", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_steps_treat_conditions_as_a_whole_pass_does(told, condition_output, separate):
    prior = prior_of(
        *CYCLE, condition_output=condition_output, separate_embeddings=separate, res_scale=True
    )
    codes, condition = codes_of(2), condition_of(2) if told else Condition()
    whole = prior(codes, condition).logits
    engine = Engine(prior, condition, 2)
    logits = [engine.prefill(codes[:, :3])] + [engine.step(codes[:, t]) for t in range(3, 19)]
    torch.testing.assert_close(torch.stack(logits, 1), whole[:, 3:], atol=1e-4, rtol=0)


def test_greedy_takes_the_likeliest_of_a_whole_pass():
    prior, prompt = prior_of(*CYCLE), codes_of(2, 6)
    made = Engine(prior, batch=2).generate(prompt, CONTEXT)
    assert torch.equal(made[:, :6], prompt)
    assert torch.equal(made[:, 6:], prior(made).logits[:, 5:].argmax(-1)[:, 1:])


def test_draws_follow_the_uniforms_of_their_position():
    prior, prompt, uniforms = prior_of(*CYCLE), codes_of(2, 6), uniforms_of(2)
    made = Engine(prior, batch=2).generate(
        prompt, 18, uniforms[:, 6:18], Drawing(temperature=0.7, top_k=4, top_p=0.9)
    )
    logits = filter_logits(prior(made).logits.flatten(0, 1), Drawing(0.7, 4, 0.9))
    expected = draw(logits, uniforms[:, :18].flatten()).view(2, 18)
    assert torch.equal(made[:, 6:], expected[:, 6:])


def test_a_result_depends_neither_on_the_batch_nor_on_where_it_went_on():
    prior, uniforms, condition = prior_of(*CYCLE), uniforms_of(3), condition_of(3)
    nothing = codes_of(3, 0)
    whole = Engine(prior, condition, 3).generate(nothing, CONTEXT, uniforms)
    for item in range(3):
        alone = Condition(
            start=condition.start[item : item + 1], position=condition.position[item : item + 1]
        )
        engine = Engine(prior, alone)
        own = uniforms[item : item + 1]
        assert torch.equal(engine.generate(nothing[:1], CONTEXT, own)[0], whole[item])
        for stop in (1, 7, 19):
            part = engine.generate(nothing[:1], stop, own[:, :stop])
            assert torch.equal(engine.generate(part, CONTEXT, own[:, stop:])[0], whole[item])


def test_the_iterator_gives_position_after_position():
    prior, uniforms = prior_of(*CYCLE), uniforms_of(2)
    engine, nothing = Engine(prior, batch=2), codes_of(2, 0)
    whole = engine.generate(nothing, CONTEXT, uniforms)
    stream = engine.stream(nothing, CONTEXT, uniforms)
    first = next(stream)
    assert engine.position == 0
    assert torch.equal(torch.stack([first, *stream], 1), whole)


def test_what_was_made_can_be_trained_on():
    prior = prior_of(*CYCLE)
    made = Engine(prior, batch=2).generate(codes_of(2, 0), CONTEXT, uniforms_of(2))
    prior.train().loss(made).backward()
    assert prior.embedding.weight.grad.abs().sum() > 0


def test_a_finished_prompt_comes_back():
    prompt = codes_of(1)
    assert torch.equal(Engine(prior_of("row")).generate(prompt, CONTEXT, uniforms_of(1, 0)), prompt)


def test_half_precision_weights_sample_too():
    prior = prior_of(*CYCLE).to(torch.bfloat16)
    made = Engine(prior, batch=2).generate(codes_of(2, 5), CONTEXT, uniforms_of(2, 15))
    assert made.shape == (2, CONTEXT)
    assert made.max() < VOCAB


def by_loop(logits, uniform):
    """The first code whose cumulative probability exceeds the uniform."""
    weights = np.exp(logits - logits.max())
    total = 0.0
    for code, weight in enumerate(weights / weights.sum()):
        total += weight
        if total > uniform:
            return code
    raise AssertionError


def test_draws_are_the_inverse_of_the_cumulative_distribution():
    rng = np.random.default_rng(0)
    logits, uniforms = rng.normal(0, 3, (500, 40)), rng.random(500)
    drawn = draw(torch.from_numpy(logits).float(), torch.from_numpy(uniforms))
    rounded = logits.astype(np.float32).astype(np.float64)
    assert drawn.tolist() == [by_loop(*pair) for pair in zip(rounded, uniforms, strict=True)]


def test_even_uniforms_give_the_probabilities():
    logits = torch.tensor([0.3, -torch.inf, 2.0, -1.0])
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    counts = torch.bincount(draw(logits.expand(100_000, 4), grid), minlength=4)
    assert (counts / 100_000 - logits.softmax(0)).abs().max() < 2e-5
    assert counts[1] == 0


def test_uniforms_at_the_ends_give_the_first_and_last_code_left():
    almost = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = torch.from_numpy(rng.normal(0, 1, (1, 50)))
        logits[:, :3] = logits[:, -4:] = -torch.inf
        assert draw(logits.expand(2, 50), almost).tolist() == [3, 45]


def kept(*args, **settings):
    return filter_logits(torch.tensor([list(args)]), Drawing(**settings))[0].isfinite().tolist()


def test_top_k_keeps_ties():
    assert kept(1.0, 3.0, 2.0, 2.0, 0.0, top_k=2) == [False, True, True, True, False]
    assert kept(1.0, 3.0, 2.0, 2.0, 0.0, top_k=4) == [True, True, True, True, False]
    assert all(kept(1.0, 3.0, 2.0, top_k=0))
    assert all(kept(1.0, 3.0, 2.0, top_k=99))


def test_top_p_keeps_the_nucleus():
    logits = [float(np.log(p)) for p in (0.1, 0.4, 0.2, 0.25, 0.05)]
    assert kept(*logits, top_p=0.3) == [False, True, False, False, False]
    assert kept(*logits, top_p=0.5) == [False, True, False, True, False]
    assert kept(*logits, top_p=0.8) == [False, True, True, True, False]
    assert all(kept(*logits, top_p=0.0))
    assert all(kept(*logits, top_p=1.0))
    assert kept(*logits, top_p=1e-9) == [False, True, False, False, False]
    # Of the likeliest two, 0.4 and 0.25 become 0.62 and 0.38.
    assert kept(*logits, top_k=2, top_p=0.61) == [False, True, False, False, False]


def test_temperature_divides():
    logits = torch.randn(3, 5)
    torch.testing.assert_close(filter_logits(logits, Drawing(0.5)), logits.double() * 2)


def test_bad_calls_are_refused():
    prior = prior_of("row")
    engine, nothing, uniforms = Engine(prior, batch=2), codes_of(2, 0), uniforms_of(2)
    with pytest.raises(InputError, match="from 0 to 21 codes: room is for 20"):
        engine.generate(nothing, 21, uniforms)
    with pytest.raises(InputError, match="from 5 to 4 codes"):
        engine.generate(codes_of(2, 5), 4, uniforms)
    with pytest.raises(InputError, match=r"uniforms of shape \(2, 20\) instead of \(2, 4\)"):
        engine.generate(nothing, 4, uniforms)
    for settings in ({"temperature": 0.0}, {"top_k": -1}, {"top_p": 1.5}):
        with pytest.raises(InputError, match="needed are a temperature above 0"):
            Drawing(**settings)
    with pytest.raises(InputError, match=r"prompt of shape \[3, 0\] for a batch of 2"):
        engine.prefill(codes_of(3, 0))
    with pytest.raises(InputError, match=r"prompt of shape \[2, 20\]"):
        engine.prefill(codes_of(2))
    engine.prefill(codes_of(2, 19))
    with pytest.raises(InputError, match="20 codes that there is room for are there"):
        engine.step(nothing.new_zeros(2))


@pytest.mark.parametrize("uniforms", [None, uniforms_of(1)])
def test_logits_that_are_no_numbers_are_refused(uniforms):
    prior = prior_of("row")
    with torch.no_grad():
        prior.positions[3] = torch.inf
    engine = Engine(prior)
    with pytest.raises(InputError, match=r"leave the range of float32 at code 3: .*--dtype"):
        engine.generate(codes_of(1, 0), CONTEXT, uniforms)
