"""The prior: what each logit depends on, losses, conditions, presets."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from codec.tokens import TokenSpec, TokenStream
from conditioning.base import AuxiliaryLoss, Condition, Window
from plugins import registry
from plugins.ground.errors import InputError
from prior.config import PRESETS, PriorConfig, preset
from prior.engine import Engine
from prior.prior import Prior

SPEC = TokenSpec(
    sample_rate=22050,
    channels=1,
    streams=(
        TokenStream(name="fine", vocab_size=11, hop_length=32),
        TokenStream(name="coarse", vocab_size=7, hop_length=128),
    ),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)


def config(**settings):
    small = {"context": 12, "width": 16, "depth": 3, "heads": 2, "blocks": 3}
    return preset("tiny", SPEC, **{"stream": "coarse", **small, **settings})


def loud(prior, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return prior.eval()


def labelled(stream="fine", **settings):
    """A prior with every built-in conditioner."""
    configs = {
        "artist": {"names": ["ada", "bob"]},
        "genre": {"names": ["jazz", "rock"]},
        "timing": {"bins": 4, "total_seconds": (0.0, 60.0)},
        "codes": {"width": 8, "depth": 2, "dilation_cycle": 2},
    }
    if stream == "coarse":
        del configs["codes"]
    records = []
    for name, settings_of in configs.items():
        cls = registry.get(registry.CONDITIONERS, name)
        records.append(registry.record(registry.CONDITIONERS, name, cls.Config(**settings_of)))
    return loud(Prior(config(stream=stream, conditioners=records, **settings)))


def codes(batch=2, length=12, vocab=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (batch, length), generator=generator)


@pytest.mark.parametrize("patterns", [("dense",), ("row", "column", "previous")])
def test_a_logit_depends_on_earlier_codes_only(patterns):
    prior = loud(Prior(config(patterns=patterns)))
    x = codes()
    before = prior(x).logits
    assert before.shape == (2, 12, 7)
    for t in range(12):
        moved = x.clone()
        moved[:, t] = (moved[:, t] + 1) % 7
        changed = (prior(moved).logits - before).abs().amax((0, 2)) > 1e-4
        assert not changed[: t + 1].any()
        assert t == 11 or changed[t + 1]


def test_fewer_codes_than_the_context_give_the_same_logits():
    prior, x = labelled("coarse"), codes()
    condition = prior.condition(batch_of(prior, 2))
    whole = prior(x, condition).logits
    for length in range(1, 13):
        part = prior(x[:, :length], condition).logits
        torch.testing.assert_close(part, whole[:, :length], atol=1e-5, rtol=1e-5)


def test_inputs_are_shifted_and_summed():
    prior, x = loud(Prior(config())), codes()
    start, position = torch.randn(2, 1, 16), torch.randn(2, 12, 16)
    inputs = prior.inputs(x[:, :-1], Condition(start=start, position=position))
    told = prior.positions + position
    torch.testing.assert_close(inputs[:, :1], start + told[:, :1])
    torch.testing.assert_close(inputs[:, 1:], prior.embedding(x[:, :-1]) + told[:, 1:])
    untold = prior.inputs(x[:, :0])
    torch.testing.assert_close(untold[:, 0], (prior.start + prior.positions[:1]).expand(2, -1))


@pytest.mark.parametrize("condition_output", [False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_logits_read_the_hidden_vectors(separate, condition_output):
    prior = loud(Prior(config(separate_embeddings=separate, condition_output=condition_output)))
    position = torch.randn(2, 12, 16)
    out = prior(codes(), Condition(position=position))
    table = prior.output.weight if separate else prior.embedding.weight
    read = out.hidden + position if condition_output else out.hidden
    torch.testing.assert_close(out.logits, read @ table.T)


def test_loss_is_cross_entropy_of_the_positions_that_count():
    prior, x = loud(Prior(config())), codes()
    chances = prior(x).logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    torch.testing.assert_close(prior.loss(x), -chances.mean())
    mask = torch.arange(12) < torch.tensor([[12], [5]])
    torch.testing.assert_close(prior.loss(x, mask=mask), -chances[mask].mean())
    others = (AuxiliaryLoss("a", torch.tensor(0.5), 4, 0.4),)
    weighed = (-chances.mean() * x.shape[1] + 0.4 * 4 * 0.5) / (x.shape[1] + 4)
    losses = prior.losses(x, Condition(losses=others))
    torch.testing.assert_close(losses.total, weighed)
    torch.testing.assert_close(losses.codes, -chances.mean())
    assert losses.others == {"a": others[0].mean}
    assert prior.loss(x, mask=mask & False).item() == 0


def test_a_fresh_prior_guesses():
    loss = Prior(config(width=64)).loss(codes(8)).item()
    assert loss == pytest.approx(math.log(7), abs=0.05)


def test_it_learns_melodies():
    """Of five melodies; the first codes tell which, so all but the first few can be known."""
    torch.manual_seed(0)
    prior, melodies = Prior(config(width=32)).train(), codes(5)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=5e-3)
    mask = (torch.arange(12) >= 3).expand(5, 12)
    before = prior.loss(melodies, mask=mask).item()
    for _ in range(160):
        loss = prior.loss(melodies, mask=mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * before


def test_upto_stops_after_a_layer():
    prior, x = loud(Prior(config())), codes()
    early = prior(x, upto=0)
    assert early.logits is None
    only = prior.transformer.layers[0]
    weights = prior(x, upto=0, record=[0]).attention[0]
    assert weights.shape == (2, 2, 12, 12)
    last = prior(x, upto=2)
    torch.testing.assert_close(last.hidden, prior(x).hidden)
    assert not torch.equal(early.hidden, last.hidden)
    inputs = prior.inputs(x[:, :-1])
    prior.transformer.layers = torch.nn.ModuleList([only])
    torch.testing.assert_close(
        early.hidden, prior.transformer(inputs, [registry.get(registry.ATTENTION, "naive")()])
    )


def test_record_keeps_attention_and_changes_nothing():
    prior, x = loud(Prior(config(patterns=("row", "column", "previous")))), codes()
    out = prior(x, record=[0, 2])
    assert set(out.attention) == {0, 2}
    torch.testing.assert_close(out.logits, prior(x).logits, atol=1e-5, rtol=1e-5)
    row, previous = out.attention[0], out.attention[2]
    torch.testing.assert_close(row.sum(-1), torch.ones(2, 2, 12))
    assert not row[:, :, 5, :4].any()
    assert not previous[:, :, :4].any()
    torch.testing.assert_close(previous[:, :, 4:, :8].sum(-1), torch.ones(2, 2, 8))


def test_attention_is_chosen_by_name_and_is_no_weight():
    prior, x = loud(Prior(config())), codes()
    names = set(prior.state_dict())
    results = []
    for name in ("naive", "flash", "auto"):
        prior.use_attention(name)
        results.append(prior(x).logits)
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(results[1], results[2])
    assert set(prior.state_dict()) == names
    with pytest.raises(InputError, match=r"no 'flashy' in jukebox\.attention"):
        prior.use_attention("flashy")
    assert prior.transformer.attention == "auto"


@pytest.mark.parametrize("name", ["naive", "flash"])
def test_it_trains_in_half_precision_under_autocast(name):
    prior = loud(Prior(config())).train()
    prior.use_attention(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = prior.loss(codes())
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
    assert loss.item() == pytest.approx(prior.loss(codes()).item(), rel=0.05)


TRACK = {"id": "x", "artist": "Bob", "genre": "rock", "codes_coarse": list(range(7)) * 3}


def batch_of(prior, size, track=TRACK):
    items = [prior.prepare(track, Window(start=4 * i, total=100_000)) for i in range(size)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def test_conditioners_are_built_by_name_and_fed_by_prefix():
    prior = labelled()
    batch = batch_of(prior, 2)
    assert {name.split("/")[0] for name in batch} == {"artist", "genre", "timing", "codes"}
    condition = prior.condition({**batch, "codes": codes(), "mask": codes()})
    own = {
        name: part({k.split("/")[1]: t for k, t in batch.items() if k.startswith(f"{name}/")})
        for name, part in prior.conditioners.items()
    }
    torch.testing.assert_close(condition.start, own["artist"].start + own["genre"].start)
    torch.testing.assert_close(condition.position, own["timing"].position + own["codes"].position)
    assert prior.start is None
    assert prior(codes(vocab=11), condition).logits.shape == (2, 12, 11)


def test_every_weight_of_a_labelled_prior_gets_a_gradient():
    prior = labelled(separate_embeddings=True).train()
    prior.loss(codes(vocab=11), prior.condition(batch_of(prior, 2))).backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None] == []


STRANGER = """
import torch
from pydantic import BaseModel
from torch import nn
from conditioning.base import Condition, Conditioner, Provides

class Words(Conditioner):
    class Config(BaseModel):
        pass
    provides = Provides(memory=8)
    def __init__(self, config, site):
        super().__init__(config, site)
        self.table = nn.Embedding(10, site.width)
    def prepare(self, track, window, rng=None):
        words = torch.arange(8) % 10
        return {"words": words, "there": words < track.get("words", 8)}
    def forward(self, batch):
        return Condition(memory=self.table(batch["words"]), memory_mask=batch["there"])

class Ahead(Words):
    provides = Provides(prefix=3, prefix_vocab=5, prefix_weight=0.5)
    def prepare(self, track, window, rng=None):
        return {"ahead": torch.tensor([4, 0, 2])}
    def forward(self, batch):
        return Condition(prefix=batch["ahead"])
"""


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """An installed package with a conditioner that makes a memory and one that makes a prefix."""
    (tmp_path / "words_plugin.py").write_text(STRANGER)
    info = tmp_path / "words_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: words-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.CONDITIONERS}]\nwords = words_plugin:Words\nahead = words_plugin:Ahead\n"
        "behind = words_plugin:Ahead\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def kept(*names):
    return [registry.PluginRecord(name=n, distribution="words-plugin", version="1") for n in names]


@pytest.mark.usefixtures("strangers")
def test_a_memory_needs_layers_that_read_it_and_they_need_a_memory():
    with pytest.raises(InputError, match="a memory, but no layer reads it: give a pattern"):
        Prior(config(conditioners=kept("words")))
    with pytest.raises(InputError, match="layers that read a memory, but no conditioner has one"):
        Prior(config(patterns=("row", "memory")))
    with pytest.raises(InputError, match=r"needs a memory from its conditioners \(words\)"):
        Prior(config(patterns=("row", "memory"), conditioners=kept("words")))(codes())


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("words", [8, 3])
def test_a_memory_with_holes_is_sampled_as_it_is_trained(words):
    torch.manual_seed(0)
    prior = Prior(config(patterns=("row", "memory"), conditioners=kept("words"))).eval()
    track = {"words": words}
    batch = {n: torch.stack([t] * 2) for n, t in prior.prepare(track, Window(0, 99)).items()}
    condition = prior.condition(batch)
    made = Engine(prior, condition, 2).generate(codes()[:2, :4], 12)
    with torch.no_grad():
        logits = prior(made, condition).logits
    assert torch.equal(made[:, 4:], logits.argmax(-1)[:, 4:])
    output = prior(made, condition, record=[1])
    assert output.attention[1].shape == (2, prior.config.heads, 12, 8)
    assert not output.attention[1][..., words:].any()
    torch.testing.assert_close(output.attention[1].sum(-1), torch.ones(2, prior.config.heads, 12))


@pytest.mark.usefixtures("strangers")
def test_prefixes_are_modelled_with_the_codes_over_one_vocabulary():
    torch.manual_seed(0)
    made = config(patterns=("row", "prefix"), blocks=2, conditioners=kept("ahead", "behind"))
    prior = Prior(made).eval()
    x = codes()[:2]
    batch = {n: torch.stack([t] * 2) for n, t in prior.prepare({}, Window(0, 99)).items()}
    condition = prior.condition(batch)
    assert condition.prefix.tolist() == [[4, 0, 2, 9, 5, 7]] * 2
    assert (prior.prefix, prior.prefix_vocab) == (6, 10)
    logits = prior(x, condition).logits
    assert logits.shape == (2, 6 + 12, 10 + made.vocab_size)
    chances = logits.log_softmax(-1)
    tokens = torch.cat([condition.prefix, x + 10], 1)
    surprise = -chances.gather(-1, tokens[..., None])[..., 0]
    losses = prior.losses(x, condition)
    torch.testing.assert_close(losses.codes, surprise[:, 6:].mean())
    torch.testing.assert_close(losses.others["ahead"], surprise[:, :3].mean())
    torch.testing.assert_close(losses.others["behind"], surprise[:, 3:6].mean())
    weighed = 12 * surprise[:, 6:].mean() + 0.5 * 6 * surprise[:, :6].mean()
    torch.testing.assert_close(losses.total, weighed / 18)


@pytest.mark.usefixtures("strangers")
def test_a_prefix_token_that_is_drawn_is_fed_back_and_reported_as_code_0():
    torch.manual_seed(1)
    made = config(patterns=("row", "prefix"), conditioners=kept("ahead"), init_scale=30)
    prior = Prior(made).eval()
    batch = {n: t[None] for n, t in prior.prepare({}, Window(0, 99)).items()}
    engine = Engine(prior, prior.condition(batch), length=9)
    got = engine.generate(codes()[:1, :0], 9)
    tokens, fed = [], engine.prefill(codes()[:1, :0])
    for _ in range(9):
        tokens.append(fed.argmax(-1))
        fed = engine.step(tokens[-1]) if len(tokens) < 9 else fed
    drawn = torch.stack(tokens, 1)
    assert (drawn < 5).any()
    assert got.tolist() == (drawn - 5).clamp(min=0).tolist()


@pytest.mark.usefixtures("strangers")
def test_a_prior_whose_prefix_knows_more_tokens_adopts_the_table():
    small = Prior(config(patterns=("row", "prefix"), conditioners=kept("ahead")))
    large = Prior(config(patterns=("row", "prefix"), conditioners=kept("ahead")))
    large.prefix_vocab = 7  # as if its conditioner had met two more
    fitted = large.adopt(small.state_dict())["embedding.weight"]
    old = small.embedding.weight
    assert torch.equal(fitted, torch.cat([old[:5], old[:1], old[:1], old[5:]]))
    both = Prior(config(patterns=("row", "prefix"), blocks=2, conditioners=kept("ahead", "behind")))
    state = both.state_dict()
    both.prefix_vocab += 2
    with pytest.raises(InputError, match="a prior with two prefixes can't take up new tokens"):
        both.adopt(state)


def test_what_a_prior_lends_follows_its_settings():
    encoder = {"width": 8, "depth": 1, "heads": 1, "blocks": 2}
    record = registry.PluginRecord(
        name="lyrics_memory", distribution="", version="", config={"tokens": 4, "network": encoder}
    )
    prior = Prior(config(patterns=("row", "memory"), conditioners=[record]))
    lent = prior.conditioners["lyrics_memory"].transformer
    prior.use_recomputation()
    prior.use_attention("naive")
    assert lent.recompute
    assert lent.attention == prior.transformer.attention == "naive"


def test_bad_calls_are_refused():
    prior = Prior(config())
    with pytest.raises(InputError, match="13 codes for a prior whose context is 1 to 12"):
        prior(codes(length=13))
    with pytest.raises(InputError, match="0 codes"):
        prior(codes(length=0))
    with pytest.raises(InputError, match="no layer 3: layers are 0 to 2"):
        prior(codes(), record=[3])
    with pytest.raises(InputError, match="no layer -1"):
        prior(codes(), upto=-1)
    with pytest.raises(InputError, match="a Condition of 5 positions for 12 codes"):
        prior(codes(), Condition(position=torch.zeros(2, 5, 16)))
    with pytest.raises(InputError, match=r"from its conditioners \(artist, genre, timing\)"):
        labelled("coarse")(codes())


def test_configs_that_can_not_be_are_refused():
    with pytest.raises(InputError, match="no stream '2'; there are: fine, coarse"):
        config(stream="2")
    with pytest.raises(InputError, match="no preset 'tny'"):
        preset("tny", SPEC, "fine")
    with pytest.raises(InputError, match=r"no setting 'widht'.*width"):
        config(widht=3)
    with pytest.raises(InputError, match="vocab_size is 8, but stream 'coarse' has 7"):
        config(vocab_size=8)
    record = registry.PluginRecord(name="a", distribution="", version="")
    with pytest.raises(InputError, match="two conditioners of one name: a, a"):
        config(conditioners=[record, record])
    with pytest.raises(InputError, match=r"conditioner 'a\.b'"):
        config(conditioners=[record.model_copy(update={"name": "a.b"})])
    with pytest.raises(ValidationError, match="frozen"):
        config().width = 3


PUBLISHED = TokenSpec(
    sample_rate=44100,
    channels=1,
    streams=tuple(
        TokenStream(name=str(level), vocab_size=2048, hop_length=hop)
        for level, hop in enumerate((8, 32, 128))
    ),
    codec="vqvae",
    fingerprint="published",
)


def count(config: PriorConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Prior(config).parameters())


@pytest.mark.parametrize(
    ("name", "stream", "width", "tables", "billions"),
    [("upsampler", "0", 1920, 1, 0.82), ("5b", "2", 4800, 2, 5.04)],
)
def test_published_shapes_have_the_published_number_of_parameters(
    name, stream, width, tables, billions
):
    """Projections of 3/4 and 1/4 of the width, an MLP of once the width, norms and biases."""
    layer = 3 * width**2 + (3 * width // 4 + 3 * width) + 4 * width
    total = 72 * layer + tables * 2048 * width + 8192 * width + width
    assert count(preset(name, PUBLISHED, stream)) == total
    assert total / 1e9 == pytest.approx(billions, abs=0.01)


def test_an_upsampler_has_a_billion_parameters_with_its_conditioner():
    cls = registry.get(registry.CONDITIONERS, "codes")
    record = registry.record(registry.CONDITIONERS, "codes", cls.Config())
    total = count(preset("upsampler", PUBLISHED, "1", [record]))
    assert total / 1e9 == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_settings(name):
    made = preset(name, PUBLISHED, "1", depth=2)
    assert (made.depth, made.vocab_size, made.stream) == (2, 2048, "1")
    assert PriorConfig.model_validate_json(made.model_dump_json()) == made


def test_tied_embeddings_are_one_tensor():
    prior = Prior(config())
    assert prior.output is None
    hidden = torch.randn(2, 12, 16)
    torch.testing.assert_close(prior.head(hidden), F.linear(hidden, prior.embedding.weight))
