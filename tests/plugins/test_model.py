"""Model folders: which parts they have, and that parts of two models are never mixed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from codec.checkpoint import load_codec, read_spec, save_codec
from codec.tokens import TokenSpec
from plugins.ground.errors import InputError
from plugins.ground.model import chosen_codec, chosen_priors, codec_of, prior_of, priors_of
from prior.checkpoint import save_prior
from prior.config import preset
from prior.prior import Prior


def add_prior(folder: Path, spec: TokenSpec, stream: str) -> None:
    shape = {"context": 12, "width": 8, "depth": 1, "heads": 1, "blocks": 3}
    save_prior(Prior(preset("tiny", spec, stream, **shape)), folder)


def edit(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def model(tmp_path: Path, codec_folder: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(codec_folder, folder / "codec")
    for stream in ("1", "0"):
        add_prior(folder / f"prior_{stream}", read_spec(codec_folder), stream)
    return folder


@pytest.fixture
def other(tmp_path: Path, codec_folder: Path) -> Path:
    """Another codec."""
    codec = load_codec(codec_folder)
    with torch.no_grad():
        codec.quantizers[0].codebook.add_(1.0)  # type: ignore[union-attr,operator,index]
    save_codec(codec, tmp_path / "other")
    return tmp_path / "other"


def test_the_parts_of_a_model(model: Path) -> None:
    assert codec_of(model) == model / "codec"
    assert priors_of(model) == [model / "prior_0", model / "prior_1"]
    assert prior_of(model) == model / "prior_1"
    assert prior_of(model, "0") == model / "prior_0"
    with pytest.raises(InputError, match="no prior of stream '2'; there are: 0, 1"):
        prior_of(model, "2")


def test_streams_are_read_from_the_configs_in_the_order_of_the_spec(model: Path) -> None:
    (model / "prior_0").rename(model / "prior_fine")
    assert priors_of(model) == [model / "prior_fine", model / "prior_1"]
    assert prior_of(model, "0") == model / "prior_fine"


def test_a_part_alone_will_do(model: Path) -> None:
    shutil.rmtree(model / "prior_1")
    assert prior_of(model) == model / "prior_0"
    shutil.rmtree(model / "codec")
    assert priors_of(model) == [model / "prior_0"]
    with pytest.raises(InputError, match="is no model: it has no codec/"):
        codec_of(model)


def test_a_codec_serves_while_its_first_prior_is_trained(model: Path) -> None:
    (model / "prior_1" / "config.json").unlink()
    assert codec_of(model) == model / "codec"
    with pytest.raises(InputError, match=r"no prior in .*prior_1"):
        priors_of(model)


@pytest.mark.parametrize("name", ["nowhere", "thesis"])
def test_what_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "thesis").mkdir()
    for find in (codec_of, priors_of, prior_of):
        with pytest.raises(InputError, match=f"{name} is no model: it has no "):
            find(tmp_path / name)


def test_parts_made_for_different_codecs_are_refused(model: Path, other: Path) -> None:
    shutil.rmtree(model / "codec")
    shutil.copytree(other, model / "codec")
    for find in (codec_of, priors_of, prior_of):
        with pytest.raises(
            InputError, match=r"model/prior_0 is of codec vqvae .*, but .*/codec of"
        ):
            find(model)


def test_a_codec_from_before_its_spec_was_kept_is_taken(model: Path, other: Path) -> None:
    edit(model / "codec", lambda config: config.pop("spec"))
    assert codec_of(model) == model / "codec"
    assert priors_of(model) == [model / "prior_0", model / "prior_1"]
    shutil.rmtree(model / "prior_1")
    add_prior(model / "prior_1", read_spec(other), "1")
    with pytest.raises(InputError, match=r"prior_1 is of codec .*, but .*prior_0 of"):
        codec_of(model)


def test_two_priors_of_one_stream_are_named(model: Path) -> None:
    shutil.copytree(model / "prior_1", model / "prior_1_tuned")
    with pytest.raises(InputError, match=r"prior_1_tuned and .*prior_1 both model stream '1'"):
        priors_of(model)
    assert codec_of(model) == model / "codec"


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("spec"),
        lambda config: config.update(stream="7"),
        lambda config: config["spec"].update(streams=3),
    ],
)
def test_damaged_configs_are_named(model: Path, change) -> None:  # type: ignore[no-untyped-def]
    edit(model / "prior_1", change)
    with pytest.raises(InputError, match=r"prior_1/config\.json is damaged"):
        priors_of(model)


def test_either_a_part_or_the_model_is_given(model: Path) -> None:
    codec, priors = model / "codec", [model / "prior_0"]
    assert chosen_codec(codec, None) == chosen_codec(None, model) == codec
    assert chosen_priors(priors, None, []) == priors
    assert chosen_priors([], model, []) == priors_of(model)
    assert chosen_priors([], model, ["0"]) == priors
    for given in ((codec, model), (None, None)):
        with pytest.raises(InputError, match="give either --codec or --model"):
            chosen_codec(*given)
    for folders, where in ((priors, model), ([], None)):
        with pytest.raises(InputError, match="give either folders of priors or --model"):
            chosen_priors(folders, where, [])
    with pytest.raises(InputError, match="--streams chooses among the priors of a --model"):
        chosen_priors(priors, None, ["0"])


def test_a_prior_is_a_model_of_itself_alone(model: Path) -> None:
    own = model / "prior_0"
    assert prior_of(own) == prior_of(own, "0") == own
    assert priors_of(own) == [own]
    with pytest.raises(InputError, match="no prior of stream '1'; there are: 0"):
        prior_of(own, "1")
    with pytest.raises(InputError, match="it has no codec/"):
        codec_of(own)
    with pytest.raises(InputError, match="holds a codec, not a prior"):
        prior_of(model / "codec")
