"""A codec's folder: what is saved comes back, and what does not fit is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codec.checkpoint import load_codec, read_spec, save_codec
from codec.config import VQVAEConfig
from codec.losses import Bandwidth
from codec.tokens import TokenSpec
from codec.vqvae import VQVAE
from plugins.ground.errors import InputError

CONFIG = VQVAEConfig(
    sample_rate=8000,
    halvings=(2, 1),
    multipliers=(1, 1),
    codebook_size=16,
    codebook_width=4,
    width=4,
    depth=1,
    resolutions=((128, 32, 128),),
)


def build(seed: int = 0) -> VQVAE:
    torch.manual_seed(seed)
    codec = VQVAE(CONFIG).train()
    codec.set_bandwidth(Bandwidth(0.3, 0.2, 9.0))
    codec.training_step(torch.randn(2, 1, 512))
    return codec


@pytest.fixture
def folder(tmp_path) -> Path:
    save_codec(build(), tmp_path / "codec")
    return tmp_path / "codec"


def edit(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_codec_comes_back_with_its_state_and_its_codes(tmp_path):
    codec = build()
    spec = save_codec(codec, tmp_path / "new" / "codec")
    loaded = load_codec(tmp_path / "new" / "codec")
    assert not loaded.training
    assert loaded.config == CONFIG
    assert loaded.spec == spec == codec.spec == read_spec(tmp_path / "new" / "codec")
    assert len(spec.fingerprint) == 16
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in codec.state_dict().items())
    audio = torch.randn(1, 1, 3000)
    codes, again = codec.eval().encode(audio), loaded.encode(audio)
    assert all(torch.equal(codes[name], again[name]) for name in codes)


def test_the_config_says_which_codec_it_is(folder):
    kept = json.loads((folder / "config.json").read_text())["spec"]
    assert TokenSpec.model_validate(kept) == read_spec(folder)
    # The weights have the last word, and folders from before it was kept are read.
    edit(folder, lambda c: c["spec"].update(fingerprint="0" * 16))
    assert read_spec(folder) == TokenSpec.model_validate(kept)
    edit(folder, lambda c: c.pop("spec"))
    assert read_spec(folder) == TokenSpec.model_validate(kept)


def test_a_saved_codec_goes_on_training_as_if_never_saved(tmp_path):
    codec = build()
    save_codec(codec, tmp_path)
    loaded = load_codec(tmp_path).train()
    for model in (codec.train(), loaded):
        torch.manual_seed(7)
        model.training_step(torch.randn(2, 1, 512))
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in codec.state_dict().items())


def test_the_fingerprint_names_config_and_weights(folder, tmp_path):
    spec = read_spec(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_spec(tmp_path / "elsewhere") == spec
    assert save_codec(build(seed=1), tmp_path / "b").fingerprint != spec.fingerprint
    other = load_codec(folder)
    other.quantizers[1].codebook[0, 0] += 1e-3
    assert save_codec(other, tmp_path / "c").fingerprint != spec.fingerprint
    edit(folder, lambda c: c["codec"]["config"].update(commit_weight=0.5))
    assert read_spec(folder).fingerprint != spec.fingerprint


class LaterConfig(VQVAEConfig):
    """The settings of some later release."""

    novelty: int = 3


def test_neither_a_release_nor_a_new_setting_changes_the_fingerprint(folder, tmp_path):
    spec = read_spec(folder)
    edit(folder, lambda c: c["codec"].update(version="99.0"))
    assert read_spec(folder) == spec
    codec = load_codec(folder)
    codec.config = LaterConfig(**CONFIG.model_dump())
    assert save_codec(codec, tmp_path / "later") == spec
    codec.config = LaterConfig(**CONFIG.model_dump(), novelty=4)
    assert save_codec(codec, tmp_path / "other") != spec


class Louder(VQVAE):
    """A variant that nobody has registered."""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vqvae", "of Louder would be loaded as VQVAE, which is registered as 'vqvae': set spec"),
        ("louder", r"no 'louder' in jukebox\.codecs"),
    ],
)
def test_a_codec_that_could_not_be_loaded_again_is_not_saved(tmp_path, name, message):
    codec = Louder(CONFIG)
    codec.spec = codec.spec.model_copy(update={"codec": name})
    with pytest.raises(InputError, match=message):
        save_codec(codec, tmp_path / "codec")
    assert not (tmp_path / "codec").exists()


def test_a_folder_without_a_codec_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no codec in .*config\.json is missing"):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kind="prior"), "holds a prior, not a codec"),
        (lambda c: c.pop("codec"), "does not say which codec it is"),
        (lambda c: c["codec"].update(name="vq2", distribution="other-codecs"), "other-codecs"),
        (lambda c: c["codec"]["config"].update(depth=-1), "depth"),
        (lambda c: c["codec"]["config"].update(width=8), "has shape"),
        (lambda c: c["codec"]["config"].update(depth=2), "is missing"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, change, message):
    edit(folder, change)
    with pytest.raises(InputError, match=message):
        load_codec(folder)


def test_weights_that_do_not_fit_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "extra": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="extra is left over"):
        load_codec(folder)
    weights["quantizers.0.codebook"][3, 1] = torch.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"quantizers\.0\.codebook holds NaN"):
        load_codec(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="can't read weights"):
        load_codec(folder)
