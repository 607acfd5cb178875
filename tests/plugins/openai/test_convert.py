"""Published checkpoints become model folders that load; what does not fit is refused."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made import GOLDEN, TWO_LEVELS, golden_hps, load, random_weights, save
from torch import Tensor

from codec.checkpoint import load_codec
from codec.config import VQVAEConfig
from codec.vqvae import token_spec
from plugins.ground.errors import InputError
from plugins.ground.model import codec_of, priors_of
from plugins.ground.saved import load_weights, tensor_shapes
from plugins.openai.converting import convert
from plugins.openai.models import Model
from plugins.openai.names import published_layout
from plugins.openai.vocabulary import Vocabularies
from prior.checkpoint import load_prior, read_config

CODEC = GOLDEN / "codec.pth.tar"
TOPS = ("top", "top_unlabelled", "top_summary", "lyrics_separate", "lyrics_single")
UPSAMPLERS = ("upsampler_0", "upsampler_1")


def golden(name: str) -> Path:
    return GOLDEN / f"{name}.pth.tar"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the golden codec alone."""
    out = tmp_path_factory.mktemp("golden") / "model"
    convert([CODEC], out)
    return out


@pytest.fixture
def model(codec: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    (tmp_path / "model").mkdir()
    for file in codec.rglob("*.*"):
        copy = tmp_path / "model" / file.relative_to(codec)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def sums(tensors: dict[str, Tensor]) -> list[float]:
    """A number for each tensor, whatever it is called and however it lies."""
    return sorted(tensor.double().abs().sum().item() for tensor in tensors.values())


def refused(paths: list[Path], out: Path, *parts: str, **options: Any) -> None:
    """Conversion fails in one line that holds these parts, and leaves everything as it was."""
    before = contents(out) if out.exists() else None
    with pytest.raises(InputError) as caught:
        convert(paths, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert (contents(out) if out.exists() else None) == before


# What is converted


def test_whole_golden_model(tmp_path: Path) -> None:
    out = tmp_path / "new" / "model"
    made = convert([golden("upsampler_1"), golden("top"), CODEC, golden("upsampler_0")], out)
    assert made == [out / name for name in ("codec", "prior_1", "prior_2", "prior_0")]
    spec = load_codec(codec_of(out)).spec
    assert [stream.hop_length for stream in spec.streams] == [8, 32, 128]
    priors = [load_prior(folder) for folder in priors_of(out)]
    assert [prior.config.stream for prior in priors] == ["0", "1", "2"]
    assert all(prior.config.spec == spec for prior in priors)
    assert {path.name for path in out.iterdir()} == {"codec", "prior_0", "prior_1", "prior_2"}


@pytest.mark.parametrize("name", [*TOPS, *UPSAMPLERS])
def test_every_weight_of_a_golden_prior_arrives(name: str, model: Path) -> None:
    (folder,) = convert([golden(name)], model)
    theirs, hps = load(golden(name))
    if not hps["merged_decoder"]:
        del theirs["prior.x_out.weight"]
    prior = load_prior(folder)
    assert sums(dict(prior.state_dict())) == pytest.approx(sums(theirs))
    assert prior.config.separate_embeddings == hps["merged_decoder"]
    assert prior.config.condition_output != hps["merged_decoder"]


def test_weights_of_the_golden_codec_arrive(codec: Path) -> None:
    theirs, hps = load(CODEC)
    network = load_codec(codec / "codec")
    ours = dict(network.state_dict())
    for level in range(3):
        codebook = theirs[f"bottleneck.level_blocks.{level}.k"]
        assert torch.equal(ours[f"quantizers.{level}.codebook"], codebook)
        # Another step of training moves it from where it is, and initialises nothing.
        assert ours.pop(f"quantizers.{level}.initialised")
        counts = ours.pop(f"quantizers.{level}.counts")
        assert torch.equal(ours.pop(f"quantizers.{level}.sums") / counts[:, None], codebook)
    assert ours.pop("bandwidth").tolist() == [1, 1, 1]
    assert sums(ours) == pytest.approx(sums(theirs))
    assert network.config.lmix_l1 == hps["lmix_l1"]


def test_dense_layers_are_turned_and_halves_stay_halves(model: Path) -> None:
    (folder,) = convert([golden("top")], model)
    theirs, _ = load(golden("top"))
    ours, layer = load_weights(folder), "transformer.layers.3."
    published = theirs["prior.transformer._attn_mods.3.mlp.c_proj.w"]
    assert published.dtype == torch.float16
    assert torch.equal(ours[layer + "mlp.2.weight"], published.T)
    assert ours[layer + "mlp.2.bias"].dtype == torch.float32
    types = {name: dtype for name, (_, dtype) in tensor_shapes(folder).items()}
    halves = {name for name, dtype in types.items() if dtype == torch.float16}
    assert len(halves) == 4 * 6
    assert all(".layers." in name and name.endswith(".weight") for name in halves)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("blocks", ["blocks", "model"])
def test_however_it_was_saved(legacy: bool, blocks: str, model: Path, tmp_path: Path) -> None:
    theirs, hps = load(golden("upsampler_1"))
    renamed = {name.replace(".blocks.", f".{blocks}."): t for name, t in theirs.items()}
    path = save(tmp_path / "x.pth.tar", renamed, hps, legacy=legacy, prefix="module.")
    other = tmp_path / "other"
    convert([CODEC, golden("upsampler_1")], other)
    convert([path], model)
    assert contents(model) == contents(other)


@pytest.mark.parametrize("level", [0, 1])
def test_codecs_of_other_depths(level: int, tmp_path: Path) -> None:
    case = "top" if level else "upsampler_0"
    hps = golden_hps(case, **TWO_LEVELS, level=level, dilation_cycle=2)
    codec = save(tmp_path / "c.pth.tar", random_weights(hps), hps)
    prior = save(tmp_path / "p.pth.tar", random_weights(hps, level, half=True), hps, legacy=True)
    out = tmp_path / "model"
    convert([codec, prior], out)
    network = load_codec(codec_of(out))
    codes = network.encode(torch.randn(1, 1, 320))
    assert {name: part.shape[1] for name, part in codes.items()} == {"0": 80, "1": 10}
    loaded = load_prior(out / f"prior_{level}")
    names = [record.name for record in loaded.config.conditioners]
    assert names == ["artist", "genre", "timing" if level else "codes"]


def test_in_several_calls(model: Path) -> None:
    convert([golden("upsampler_0")], model)
    convert([golden("upsampler_1"), CODEC], model)
    once = contents(model)
    convert([golden("upsampler_0"), golden("upsampler_1"), CODEC], model)  # all there already
    assert contents(model) == once
    assert len(priors_of(model)) == 2


# Hyper-parameters


@pytest.mark.parametrize("kind", ["flat", "hps", "by name"])
def test_hyper_parameters_from_a_file(kind: str, model: Path, tmp_path: Path) -> None:
    weights, hps = load(golden("top"))
    path = save(tmp_path / "prior_level_2.pth.tar", weights)
    refused([path], model, "holds no hyper-parameters", "--model")
    changed = {**hps, "min_duration": 2.5}
    del changed["level"]  # the file's name says it
    file = tmp_path / "hps.json"
    file.write_text(
        json.dumps(
            {"flat": changed, "hps": {"hps": changed}, "by name": {"prior_level_2": changed}}[kind]
        )
    )
    (folder,) = convert([path], model, str(file))
    timing = read_config(folder).conditioners[2]
    assert timing.config["total_seconds"] == [2.5, 600.0]


def test_other_hyper_parameters_than_the_file_has(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "hps.json"
    file.write_text(json.dumps(golden_hps("top", prior_width=64)))
    refused([golden("top")], model, "top.pth.tar", "[64, 64]", "[64, 32]", model=str(file))
    file.write_text(json.dumps(golden_hps("top", prior_depth=5)))
    refused([golden("top")], model, "_attn_mods.5.", "left over", "7 more", model=str(file))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"copy_input": True}, "copy_input"),
        ({"y_cond_as_bias": True}, "y_cond_as_bias"),
        ({"attn_order": 13}, "attention order 13"),
        ({"n_vocab": 90, "use_tokens": True, "n_tokens": 8}, "n_vocab"),
        ({"n_ctx": None}, "n_ctx"),
        ({"y_bins": 7}, "y_bins"),
        ({"heads": 3}, "heads"),
        ({"level": 3}, "level 3"),
        ({"level": "2"}, "level: is '2'"),
        ({"level": True}, "level: is True"),
        ({"y_bins": [1]}, "y_bins.1: Field required"),
        # So far off that outlining or naming all of it would take all memory, or for ever.
        ({"y_bins": [120, 10**12]}, "y_bins"),
        ({"y_bins": [1 << 24, 1 << 24]}, "have 120 and 300 rows"),
        ({"prior_depth": 10**9}, "prior_depth"),
        ({"prior_width": 10**30}, "prior_width"),
        ({"n_ctx": 10**18}, "n_ctx"),
        ({"m_mlp": math.inf}, "m_mlp"),
    ],
)
def test_hyper_parameters_that_this_toolkit_has_not(
    change: dict[str, Any], part: str, model: Path, tmp_path: Path
) -> None:
    weights, hps = load(golden("top"))
    path = save(tmp_path / "top.pth.tar", weights, {**hps, **change})
    refused([path], model, "top.pth.tar", part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"m_conv": 2.0}, "bias has shape [16], not [32]"),
        ({"strides_t": (2, 4, 2)}, "strides_t"),
        ({"use_bottleneck": False}, "use_bottleneck"),
        ({"levels": 2}, "downs_t"),
        ({"levels": 0, "downs_t": ()}, "halvings"),
        ({"width": 10**18}, "width"),
        ({"width": 1 << 24, "m_conv": 1000.0}, "no model that can be built"),
        ({"depth": 1000, "hvqvae_multipliers": (9, 9, 9)}, "residual blocks"),
    ],
)
def test_codecs_that_this_toolkit_has_not(
    change: dict[str, Any], part: str, tmp_path: Path
) -> None:
    weights, hps = load(CODEC)
    path = save(tmp_path / "codec.pth.tar", weights, {**hps, **change})
    refused([path], tmp_path / "model", "codec.pth.tar", part)


def test_hyper_parameters_are_missing(model: Path, tmp_path: Path) -> None:
    weights, hps = load(golden("top"))
    del hps["res_scale"], hps["m_attn"]
    path = save(tmp_path / "top.pth.tar", weights, hps)
    refused([path], model, "lack m_attn, res_scale", "--model")


def test_a_level_must_be_said(model: Path, tmp_path: Path) -> None:
    weights, hps = load(golden("top"))
    del hps["level"]
    path = save(tmp_path / "top.pth.tar", weights, hps)
    refused([path], model, "which level")


# Published models by name


def expanded(name: str, level: int) -> dict[str, Tensor]:
    """Tensors of published shapes that take no memory."""
    config = Model(name, Vocabularies())._published(name, token_spec(VQVAEConfig()), level)
    return {n: torch.zeros(()).expand(shape) for n, shape in published_layout(config).items()}


@pytest.mark.parametrize(
    ("name", "level", "millions"),
    [("5b", 2, 5060), ("5b_lyrics", 2, 5641), ("1b_lyrics", 2, 947), ("1b_lyrics", 0, 985)],
)
def test_published_shapes(name: str, level: int, millions: int) -> None:
    tensors = expanded(name, level)
    assert round(sum(math.prod(t.shape) for t in tensors.values()) / 1e6) == millions
    rows = {"5b": 4111, "5b_lyrics": 4111, "1b_lyrics": 7898 if level == 2 else 4111}
    assert len(tensors["y_emb.artist_emb.emb.weight"]) == rows[name]


def test_a_published_model_by_name(tmp_path: Path) -> None:
    out = tmp_path / "model"
    weights = {n: torch.randn(s) for n, s in published_layout(VQVAEConfig()).items()}
    convert([save(tmp_path / "vqvae.pth.tar", weights)], out, "5b")
    assert load_codec(codec_of(out)).config == VQVAEConfig()
    # A prior of another model is refused by its tensors.
    path = save(tmp_path / "prior_level_2.pth.tar", expanded("5b_lyrics", 2))
    refused([path], out, "--model 5b:", "[4800, 1200], not [4800, 3600]", "329 more", model="5b")
    path = save(
        tmp_path / "prior_level_1.pth.tar", expanded("5b", 0) | {"prior.more": torch.ones(2)}
    )
    refused([path], out, "--model 5b:", "prior.more [2] is left over", model="5b")


def test_a_name_that_the_file_contradicts(codec: Path, tmp_path: Path) -> None:
    refused([CODEC], tmp_path / "new", "--model 5b", "codebook_size = 64, not 2048", model="5b")
    refused([golden("top")], codec, "--model 5b", "width = 32, not 4800", model="5b")
    refused([CODEC], tmp_path / "new", "'6b'", "5b_lyrics", model="6b")


# Tensors that do not fit


def test_tensors_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    weights, hps = load(golden("top"))
    start, emb = "prior.start_token", "prior.x_emb.weight"
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({start: torch.ones(1, 32)}, f"{start} [1, 32] is left over"),
        ({emb: weights[emb][:60]}, f"{emb} has shape [60, 32], not [64, 32]"),
        ({emb: weights[emb].clone().index_fill_(0, torch.tensor([3]), math.nan)}, emb),
        ({emb: weights[emb].int()}, "no tensor of floating-point"),
        ({emb: weights[emb].to("meta")}, "no tensor of floating-point"),
    ]
    for change, part in cases:
        path = save(tmp_path / "top.pth.tar", {**weights, **change}, hps)
        refused([path], model, "top.pth.tar", part)
    del weights["prior.pos_emb.pos_emb"]
    path = save(tmp_path / "top.pth.tar", weights, hps)
    refused([path], model, "prior.pos_emb.pos_emb is missing")


def test_one_broken_number_in_half_precision(model: Path, tmp_path: Path) -> None:
    weights, hps = load(golden("top"))
    name = "prior.transformer._attn_mods.5.attn.c_attn.w"
    weights[name][3, 5] = math.inf
    path = save(tmp_path / "top.pth.tar", weights, hps)
    refused([path], model, "top.pth.tar", name, "infinity")


def test_a_codec_with_a_broken_number(tmp_path: Path) -> None:
    weights, hps = load(CODEC)
    weights["bottleneck.level_blocks.1.k"][0, 0] = math.nan
    path = save(tmp_path / "c.pth.tar", weights, hps)
    refused([path], tmp_path / "model", "c.pth.tar", "bottleneck.level_blocks.1.k")


def test_shared_embeddings_must_be_one(model: Path, tmp_path: Path) -> None:
    weights, hps = load(golden("upsampler_0"))
    weights["prior.x_out.weight"] = weights["prior.x_out.weight"] + 1e-3
    path = save(tmp_path / "x.pth.tar", weights, hps)
    refused([path], model, "x_out", "merged_decoder")


# Where it goes


def test_a_prior_needs_a_codec(tmp_path: Path) -> None:
    refused([golden("top")], tmp_path / "new" / "parents" / "model", "codec")
    assert not (tmp_path / "new").exists()


def test_what_is_there_stays(model: Path, tmp_path: Path) -> None:
    convert([golden("top")], model)
    refused([golden("top_summary")], model, "prior_2", "another conversion")
    weights, hps = load(golden("top"))
    weights["prior.x_emb.weight"][0, 0] += 1
    path = save(tmp_path / "x.pth.tar", weights, hps)
    refused([path, golden("upsampler_0")], model, "prior_2", "another conversion")
    weights, hps = load(CODEC)
    weights["bottleneck.level_blocks.0.k"][0, 0] += 1
    path = save(tmp_path / "x.pth.tar", weights, hps)
    refused([path], model, "codec", "another conversion")


def test_one_of_each(model: Path, tmp_path: Path) -> None:
    refused([golden("top"), golden("top_summary")], model, "two checkpoints", "prior_2")
    refused([CODEC, CODEC], tmp_path / "new", "both codecs")


def test_an_occupied_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused([CODEC], tmp_path, "something other")
    refused([CODEC], tmp_path / "notes.txt", "notes.txt")


def test_after_a_kill(model: Path) -> None:
    for part in ("codec", "prior_0", "prior_2"):
        left = model / f".{part}.partial"
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
    convert([golden("top")], model)
    assert {path.name for path in model.iterdir()} == {"codec", "prior_2"}


@pytest.mark.parametrize("part", ["codec", "prior_2"])
def test_a_part_without_its_files(part: str, model: Path) -> None:
    convert([golden("top")], model)
    weights = model / part / "model.safetensors"
    weights.unlink()
    with pytest.raises(InputError) as caught:
        convert([CODEC, golden("top")], model)
    assert str(caught.value).startswith(f"{model / part} is incomplete, it has no model.safe")
    assert str(caught.value).count(str(model)) == 1
    shutil.rmtree(model / part)
    (model / part).symlink_to("nowhere")
    refused([CODEC, golden("top")], model, f"{part} is incomplete")
    assert {path.name for path in model.iterdir()} == {"codec", "prior_2"}


def test_a_full_disk(model: Path, file_size_limit: Any) -> None:
    with file_size_limit(50_000):
        refused([golden("top")], model, f"can't write {model}/prior_2/model.safetensors: ")


def test_a_folder_that_can_not_be_written(model: Path) -> None:
    (model / ".prior_2.partial").write_text("in the way")  # as a read-only disk, also for root
    refused([golden("top")], model, f"can't write {model}: File exists")


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "plugins.openai.convert", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    out = tmp_path / "model"
    done = run(CODEC, golden("top"), "--out", out)
    assert (done.returncode, done.stdout.split()) == (0, [f"{out}/codec", f"{out}/prior_2"])
    failed = run(GOLDEN / "README.md", "--out", tmp_path / "other")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "other").exists()
