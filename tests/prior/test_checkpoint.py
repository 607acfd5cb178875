"""A prior on disk: what comes back, what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from codec.tokens import TokenSpec, TokenStream
from conditioning.base import Window
from plugins import registry
from plugins.ground.errors import InputError
from prior.checkpoint import load_prior, read_config, save_prior
from prior.config import preset
from prior.prior import Prior

SPEC = TokenSpec(
    sample_rate=22050,
    channels=1,
    streams=(
        TokenStream(name="0", vocab_size=11, hop_length=32),
        TokenStream(name="1", vocab_size=7, hop_length=128),
    ),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
TRACK = {"id": "x", "artist": "Bob", "codes_1": [1, 2, 3, 4]}


def prior_of(conditioners=(), **settings):
    shape = {"context": 12, "width": 16, "depth": 3, "heads": 2, "blocks": 3}
    return Prior(preset("tiny", SPEC, "0", conditioners, **shape, **settings)).eval()


def labelled():
    records = []
    for name, settings in (("artist", {"names": ("bob",)}), ("codes", {"width": 8, "depth": 1})):
        cls = registry.get(registry.CONDITIONERS, name)
        records.append(registry.record(registry.CONDITIONERS, name, cls.Config(**settings)))
    return prior_of(records)


def logits(prior):
    batch = {k: t[None] for k, t in prior.prepare(TRACK, Window(0, 512)).items()}
    with torch.inference_mode():
        return prior(torch.arange(11)[None], prior.condition(batch)).logits


@pytest.mark.parametrize("build", [prior_of, labelled], ids=["plain", "labelled"])
def test_a_prior_comes_back_whole(build, tmp_path):
    prior = build()
    save_prior(prior, tmp_path / "p")
    back = load_prior(tmp_path / "p")
    assert not back.training
    assert back.config == prior.config == read_config(tmp_path / "p")
    assert back.config.spec == SPEC
    assert torch.equal(logits(back), logits(prior))
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"config.json", "model.safetensors"}


def test_it_can_be_trained_on(tmp_path):
    save_prior(prior_of(), tmp_path)
    back = load_prior(tmp_path).train()
    back.loss(torch.arange(11)[None]).backward()
    assert all(p.grad is not None for p in back.parameters())


def test_weights_take_the_dtype_asked_for(tmp_path):
    prior = prior_of().to(torch.bfloat16)
    save_prior(prior, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert load_prior(tmp_path).embedding.weight.dtype == torch.float32
    half = load_prior(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.positions, prior.positions)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_first_layers_alone(layers, tmp_path):
    prior = labelled()
    save_prior(prior, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in weights:  # what is not asked for is not read
        if any(name.startswith(f"transformer.layers.{i}.") for i in range(layers, 3)):
            weights[name][:] = torch.nan
    save_file(weights, tmp_path / "model.safetensors")
    back = load_prior(tmp_path, layers=layers)
    assert len(back.transformer.layers) == layers
    assert {t.device.type for t in back.state_dict().values()} == {"cpu"}
    batch = {k: t[None] for k, t in prior.prepare(TRACK, Window(0, 512)).items()}
    with torch.inference_mode():
        hidden, expected = (
            p(torch.arange(11)[None], p.condition(batch), upto=layers - 1).hidden
            for p in (back, prior)
        )
    assert torch.equal(hidden, expected)


def test_the_layers_left_out_must_fit_too(tmp_path):
    save_prior(prior_of(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.layers.2.mlp.0.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"layers\.2\.mlp\.0\.weight is missing"):
        load_prior(tmp_path, layers=1)


@pytest.mark.parametrize("layers", [0, 4])
def test_layers_that_there_are_not(layers, tmp_path):
    save_prior(prior_of(), tmp_path)
    with pytest.raises(InputError, match=f"has 1 to 3 layers to load, not {layers}"):
        load_prior(tmp_path, layers=layers)


KEEPER = """
import torch
from pydantic import BaseModel
from conditioning.base import Condition, Conditioner, Provides

class Keeper(Conditioner):
    class Config(BaseModel):
        pass
    provides = Provides(start=True)
    def __init__(self, config, site):
        super().__init__(config, site)
        self.register_buffer("kept", torch.arange(float(site.width)), persistent=False)
        self.highest = self.kept.max().item()
    def prepare(self, track, window, rng=None):
        return {"one": torch.ones(())}
    def forward(self, batch):
        return Condition(start=batch["one"][:, None, None] * self.kept)
"""


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    """A stranger's conditioner that keeps a buffer which no file holds."""
    place = tmp_path / "site"
    info = place / "keeper_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "keeper_plugin.py").write_text(KEEPER)
    (info / "METADATA").write_text("Name: keeper-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.CONDITIONERS}]\nkeeper = keeper_plugin:Keeper\n"
    )
    monkeypatch.syspath_prepend(str(place))
    cls = registry.get(registry.CONDITIONERS, "keeper")
    return registry.record(registry.CONDITIONERS, "keeper", cls.Config())


def test_buffers_that_no_file_holds_are_made_anew(keeper, tmp_path):
    prior = prior_of([keeper])
    save_prior(prior, tmp_path / "p")
    assert torch.equal(logits(load_prior(tmp_path / "p")), logits(prior))
    half = load_prior(tmp_path / "p", dtype=torch.bfloat16)
    assert half.conditioners["keeper"].kept.dtype == torch.bfloat16
    assert half.conditioners["keeper"].highest == 15


def test_a_missing_conditioner_is_named_with_its_distribution(tmp_path):
    gone = registry.PluginRecord(name="mood", distribution="mood-labels", version="2.1")
    save_prior(prior_of(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["conditioners"] = [gone.model_dump()]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"needs 'mood' .*mood-labels 2\.1 offered: install it"):
        load_prior(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": "wide"}, "config of the prior in .*: width: Input should be"),
        ({"stream": "9"}, "no stream '9'; there are: 0, 1"),
        ({"novelty": 1}, "novelty: Extra inputs"),
        ({"kind": "codec"}, "holds a codec, not a prior"),
        ({"width": 32}, "weights in .* do not fit its config: .*shape"),
        ({"depth": 2}, "transformer.layers.2.* is left over"),
        ({"format": 99}, "newer than"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(change, message, tmp_path):
    save_prior(prior_of(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        load_prior(tmp_path)


def test_an_empty_folder_holds_no_prior(tmp_path):
    with pytest.raises(InputError, match="no prior in"):
        load_prior(tmp_path)
