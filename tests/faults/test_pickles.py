"""Pickles that would run code: they would indeed, but nothing of this project runs them."""

import io
import pickle
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from counting import count
from pickles import WAYS, armed, repacked
from targets_of_models import GOLDEN, make_tokens, spec_of, train

from plugins.ground.errors import InputError
from plugins.openai.converting import convert

CODEC = GOLDEN / "codec.pth.tar"


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_they_are_armed(tmp_path: Path, way: int) -> None:
    marker = tmp_path / "marker"
    plain = {"model": {"x": 1}}
    assert pickle.loads(armed(pickle.dumps(plain, 2), marker, way)) == plain
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_converting_runs_none(tmp_path: Path, way: int, legacy: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / "vqvae.pth.tar"
    if legacy:  # as published: several pickles, the first of which is a number
        path.write_bytes(armed(CODEC.read_bytes(), marker, way))
    else:
        new = io.BytesIO()
        torch.save(torch.load(CODEC, weights_only=True), new)
        path.write_bytes(repacked(new.getvalue(), lambda plain: armed(plain, marker, way)))
    with pytest.raises(InputError, match=r"wants to run|is damaged") as caught:
        convert([path], tmp_path / "model")
    assert path.name in str(caught.value)
    assert not marker.exists()
    assert not (tmp_path / "model").exists()
    count("hostile inputs", 1, 0)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_going_on_with_a_training_runs_none(tmp_path: Path, way: int) -> None:
    marker = tmp_path / "marker"
    make_tokens(tmp_path / "tokens", spec_of(2))
    train(tmp_path)
    state = tmp_path / "prior" / "state.pt"
    state.write_bytes(repacked(state.read_bytes(), lambda plain: armed(plain, marker, way)))
    with pytest.raises(InputError, match="can't resume"):
        train(tmp_path, 3)
    assert not marker.exists()
    count("hostile inputs", 1, 0)
