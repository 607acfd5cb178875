"""Attention that has parameters of its own: in layers, caches, checkpoints and training.

It is a stranger's, installed for these tests: scores fade with the distance of a key, at a rate
that each head learns (after Press et al. 2021, arXiv 2108.12409, where the rates are fixed).
"""

import sys
from pathlib import Path

import pytest
import torch
from music import SPEC, TINY, make_corpus
from torch import nn

from conditioning.base import Window
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from plugins.ground.saved import load_weights
from plugins.registry import PluginRecord
from prior.attention.base import LayerAttention
from prior.attention.kernels import Chosen
from prior.attention.pattern import PATTERNS, SelfPattern
from prior.checkpoint import load_prior, read_config, save_prior
from prior.config import TransformerConfig, preset
from prior.engine import Engine
from prior.job import Job
from prior.options import SamplingOptions
from prior.prior import Prior
from prior.sampling import sample_tokens
from prior.training import train_prior
from prior.transformer import Transformer

STRANGER = """
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from plugins.ground.errors import InputError
from prior.attention.base import LayerAttention

class Fading(LayerAttention):
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        rate: float = Field(0.5, ge=0)
        refuses: str = ""
        fails: str = ""

    def __init__(self, config, site):
        super().__init__(config, site)
        if site.pattern.name == config.refuses:
            raise InputError(f"fading attention can't serve {site.pattern.name!r}")
        if config.fails == "building":
            raise KeyError("no\\nsuch thing")
        self.rates = nn.Linear(1, site.heads, bias=False)
        nn.init.constant_(self.rates.weight, config.rate)

    @classmethod
    def why_not(cls, request):
        return "it has no float16" if request.dtype == torch.float16 else None

    def oracle(self, q, k, v, pattern):
        return self.weights(q, k, pattern)[..., pattern.nulls :] @ v

    def forward(self, q, k, v, pattern):
        mixed = self.oracle(q, k, v, pattern)
        if self.config.fails == "shape":
            return mixed[:, :1]
        return mixed.double() if self.config.fails == "dtype" else mixed

    def step(self, q, keys, values, positions, position):
        if self.config.fails == "step":
            return None
        return self.scores(q, keys, torch.tensor([position]), positions).softmax(-1) @ values

    def weights(self, q, k, pattern):
        queries, keys = torch.arange(q.shape[2]), torch.arange(-pattern.nulls, k.shape[2])
        seen = pattern.mask(queries, keys) | (keys < 0)
        padded = F.pad(k, (0, 0, pattern.nulls, 0))
        scores = self.scores(q, padded, queries, keys.clamp(min=-1))
        return scores.masked_fill(~seen, -1e9).softmax(-1) * seen

    def scores(self, q, keys, queries, positions):
        apart = (queries[:, None] - positions).where(positions >= 0, 0)
        return q @ keys.mT * q.shape[-1] ** -0.5 - self.rates.weight[:, :, None] * apart
"""
ALONE = [name for name, cls in PATTERNS.items() if issubclass(cls, SelfPattern)]
OPTIONS = TrainingOptions(steps=4, batch_size=4, device="cpu")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the path with the distribution of `fading`."""
    folder = tmp_path / "site"
    info = folder / "fading_kit-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(f"[{registry.ATTENTION}]\nfading = fading_kit:Fading\n")
    (folder / "fading_kit.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "fading_kit", raising=False)
    return folder


def record(**settings: object) -> PluginRecord:
    cls = registry.get(registry.ATTENTION, "fading")
    return registry.record(
        registry.ATTENTION, "fading", build_config(cls.Config, {"": {}}, "", settings)
    )


def transformer(patterns: tuple[str, ...], **settings: object) -> Transformer:
    """Large random weights, and another rate for every head."""
    shape = {
        "context": 20, "width": 16, "depth": 3, "heads": 2, "blocks": 5, "attention_ratio": 1.0,
        "prefix": 5, "memory": 4 if "memory" in patterns else 0, "spread": 2,
    }  # fmt: skip
    made = Transformer(
        TransformerConfig(patterns=patterns, attention=record(), **{**shape, **settings})
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return made


def prior(attention: PluginRecord | None = None, **settings: object) -> Prior:
    torch.manual_seed(3)
    shape = {**TINY, "init_scale": 20, "attention": attention or record(), **settings}
    return Prior(preset("tiny", SPEC, "1", **shape)).eval()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("patterns", [*((name,) for name in ALONE), ("row", "memory", "dense")])
@torch.no_grad()
def test_from_caches_comes_what_a_whole_pass_gives(patterns: tuple[str, ...]) -> None:
    model = transformer(patterns)
    x, memory = torch.randn(2, 20, 16), torch.randn(2, 4, 16)
    whole = model(x, memory=memory)
    kernel = Chosen()
    for prompt in (0, 1, 7, 19):
        caches = model.caches(2, kernel, kernel)
        pieces = [model(x[:, :prompt], caches, memory)] if prompt else []
        for t in range(prompt, 20):
            pieces.append(model(x[:, t : t + 1], caches, memory))
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("installed")
def test_every_layer_but_those_that_read_a_memory_has_its_own() -> None:
    model = transformer(("row", "memory", "dense"))
    owners = [isinstance(model.own(layer), LayerAttention) for layer in range(3)]
    assert owners == [True, False, True]
    x, memory = torch.randn(1, 20, 16), torch.zeros(1, 4, 16)
    before, own = model(x, memory=memory), model.own(2)
    assert own is not None
    with torch.no_grad():
        own.rates.weight += 1
    assert not torch.allclose(before, model(x, memory=memory))


@pytest.mark.usefixtures("installed")
def test_it_begins_with_the_weights_that_it_chose() -> None:
    config = {"context": 20, "width": 16, "depth": 1, "heads": 2, "blocks": 5}
    for rate in (0.5, 3.0):
        model = Transformer(TransformerConfig(**config, attention=record(rate=rate)))
        own = model.own(0)
        assert own is not None
        assert own.rates.weight.flatten().tolist() == [rate, rate]
        assert model.layers[0].mlp[0].weight.std() < 0.1


@pytest.mark.usefixtures("installed")
def test_recomputation_changes_no_gradient_of_its_own() -> None:
    model, x = transformer(("row", "column", "previous")).train(), torch.randn(2, 20, 16)

    def gradients(recompute: bool) -> list[torch.Tensor]:
        model.recompute = recompute
        return [*torch.autograd.grad(model(x).square().sum(), list(model.parameters()))]

    for expected, got in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(got, expected)
    rates = [name for name, _ in model.named_parameters()].index(
        "layers.0.attention.own.rates.weight"
    )
    assert gradients(True)[rates].all()


@pytest.mark.usefixtures("installed")
@torch.no_grad()
def test_what_is_recorded_are_its_own_weights() -> None:
    model = prior(patterns=("row", "summary"))
    codes = torch.randint(12, (2, 32))
    plain, watched = model(codes), model(codes, record=[0, 1])
    torch.testing.assert_close(watched.logits, plain.logits, atol=1e-4, rtol=1e-4)
    own, layer = model.transformer.own(0), model.transformer.layers[0]
    assert own is not None
    qkv = layer.attention.qkv(layer.attention_norm(model.inputs(codes[:, :-1])))
    q, k, _ = qkv.view(2, 32, 3, 2, 4).permute(2, 0, 3, 1, 4)
    expected = own.weights(q, k, layer.attention.pattern)
    torch.testing.assert_close(watched.attention[0], expected)
    assert (watched.attention[1].sum(-1) < 1).all()  # null keys took a part and are left out


@pytest.mark.usefixtures("installed")
def test_no_kernel_can_stand_in_for_it() -> None:
    model = prior()
    codes = torch.randint(12, (1, 32))
    expected = model(codes).logits
    for name in ("auto", "fading"):
        model.use_attention(name)
        assert torch.equal(model(codes).logits, expected)
    with pytest.raises(InputError, match=r"attends with 'fading'.*'flash' can't stand in for it"):
        model.use_attention("flash")
    with pytest.raises(InputError, match=r"'fading' can't serve this: it has no float16"):
        model.half().use_attention("auto")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("building", "pattern 'row': KeyError: .no"),
        ("shape", r"TypeError: it made \[1, 1, 8, 4\] of \[1, 2, 8, 4\]"),
        ("dtype", "'row' on cpu in torch.float32: RuntimeError: .*dtype"),
        ("step", "'row' on cpu in torch.float32: AttributeError: 'NoneType'"),
    ],
)
def test_what_it_can_not_do_ends_in_a_line_that_says_whose_it_is(fails: str, reason: str) -> None:
    def use() -> None:
        model = prior(record(fails=fails), depth=1)
        codes = torch.randint(12, (1, 8))
        if fails == "step":
            engine = Engine(model)
            engine.prefill(codes[:, :2])
            engine.step(codes[:, 2])
        else:
            model(codes)

    with pytest.raises(InputError, match=reason) as caught:
        use()
    said = str(caught.value)
    assert "'fading' of group jukebox.attention from fading-kit 1.5 can't serve" in said
    assert "\n" not in said


@pytest.mark.usefixtures("installed")
def test_other_priors_can_not_take_it_as_a_kernel() -> None:
    model = Prior(preset("tiny", SPEC, "1", **TINY))
    with pytest.raises(InputError, match=r"parameters of its own.*prior\.train --attention fading"):
        model.use_attention("fading")


@pytest.mark.usefixtures("installed")
def test_a_kernel_is_no_attention_of_a_layer() -> None:
    kernel = PluginRecord(name="flash", distribution="jukebox-toolkit", version="0", config={})
    with pytest.raises(InputError, match=r"'flash' of group jukebox\.attention has no settings"):
        Prior(preset("tiny", SPEC, "1", attention=kernel, **TINY))


@torch.no_grad()
def test_a_checkpoint_keeps_it_and_misses_it_by_name(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, codes = prior(), torch.randint(12, (1, 32))
    for own in (module for module in model.modules() if isinstance(module, LayerAttention)):
        nn.init.uniform_(own.rates.weight)
    save_prior(model, tmp_path / "prior")
    again = load_prior(tmp_path / "prior")
    assert torch.equal(again(codes).logits, model(codes).logits)
    kept = read_config(tmp_path / "prior").attention
    assert kept is not None
    assert (kept.name, kept.distribution, kept.version) == ("fading", "fading-kit", "1.5")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(installed)])
    for use in (load_prior, lambda folder: sample_tokens([folder], tmp_path / "samples")):
        with pytest.raises(
            InputError, match=r"needs 'fading' of group jukebox.attention, which fading-kit 1\.5"
        ):
            use(tmp_path / "prior")
    assert not (tmp_path / "samples").exists()


@pytest.mark.usefixtures("installed")
def test_it_is_trained_by_name_resumed_and_sampled(tmp_path: Path) -> None:
    make_corpus(tmp_path / "tokens")
    own = {"attention": "fading", "attention_set": {"rate": 2}}

    def train(out: str, steps: int, **how: object) -> Path:
        options = OPTIONS.model_copy(update={"steps": steps, "learning_rate": 0.01})
        train_prior(tmp_path / "tokens", tmp_path / out, options=options, **how)
        return tmp_path / out

    shape = {"preset": "tiny", "set": TINY}
    whole = train("whole", 6, **shape, **own)
    assert train("cut", 3, **shape, **own) == train("cut", 6, **shape, **own)
    learned, resumed = load_weights(whole), load_weights(tmp_path / "cut")
    assert all(torch.equal(learned[name], resumed[name]) for name in learned)
    rates = learned["transformer.layers.0.attention.own.rates.weight"]
    assert (rates != 2).all()
    with pytest.raises(InputError, match="holds a training with prior"):
        train("cut", 6, **shape, attention="fading", attention_set={"rate": 3})

    model = load_prior(whole)
    track = model.prepare({"artist": "a"}, Window(0, 32 * 32))
    condition = model.condition({name: tensor[None] for name, tensor in track.items()})
    codes = Engine(model, condition).generate(torch.zeros(1, 0, dtype=torch.int64), 20)
    greedy = model(codes, condition).logits.argmax(-1)
    assert torch.equal(greedy, codes)

    for name in ("auto", "fading"):
        options = SamplingOptions(seconds=1.5, device="cpu", attention=name)
        sample_tokens([whole], tmp_path / name, options)
    with pytest.raises(InputError, match="'naive' can't stand in for it"):
        sample_tokens([whole], tmp_path / "n", options.model_copy(update={"attention": "naive"}))

    tuned = read_config(train("tuned", 1, init=whole))
    assert tuned.attention == read_config(whole).attention
    train("named", 1, init=whole, attention="fading")
    with pytest.raises(InputError, match="'flash' can't stand in for it"):
        train("other", 1, init=whole, attention="flash")
    with pytest.raises(InputError, match="--init brings shape"):
        train("other", 1, init=whole, **own)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_set": {"rate": 1}}, "--attention-set rate: kernels have no settings"),
        ({"attention": "flash", "attention_set": {"rate": 1}}, "'flash' is one"),
        ({"attention": "fading", "attention_set": {"rat": 1}}, "no setting 'rat'.*mean rate"),
        ({"attention": "fading", "attention_set": {"rate": -1}}, "rate: .*greater"),
        ({"attention": "fading", "attention_set": {"refuses": "row"}}, "can't serve 'row'"),
        ({"set": {**TINY, "attention": "fading"}}, "--set attention: it follows"),
        ({"attention": "fadin"}, "no 'fadin' in jukebox.attention.*mean 'fading'"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    make_corpus(tmp_path / "tokens")
    settings = {"preset": "tiny", "set": TINY, "options": OPTIONS, **arguments}
    with pytest.raises(InputError, match=message):
        train_prior(tmp_path / "tokens", tmp_path / "prior", **settings)
    assert not (tmp_path / "prior").exists()
    dry = OPTIONS.model_copy(update={"dry_run": True})
    with pytest.raises(InputError, match=message):
        train_prior(tmp_path / "tokens", tmp_path / "prior", **{**settings, "options": dry})


@pytest.mark.usefixtures("installed")
def test_of_several_priors_a_name_goes_to_those_that_it_fits(tmp_path: Path) -> None:
    save_prior(prior(), tmp_path / "own")
    save_prior(Prior(preset("tiny", SPEC, "0", **TINY)), tmp_path / "plain")
    folders = [tmp_path / "own", tmp_path / "plain"]
    options = SamplingOptions(seconds=1, device="cpu")

    def attends(name: str) -> list[str]:
        job = Job(folders, options.model_copy(update={"attention": name}))
        return [job.attention_of(read_config(folder)) for folder in folders]

    assert attends("auto") == ["auto", "auto"]
    assert attends("sparse") == ["auto", "sparse"]
    assert attends("fading") == ["fading", "auto"]
    with pytest.raises(InputError, match="no 'lost'"):
        attends("lost")
