"""Tempo: which numbers share a vector, and what is no tempo."""

import numpy as np
import pytest
import torch
from jukebox_example.tempo import Tempo, TempoConfig
from pydantic import ValidationError

from codec.tokens import TokenStream
from conditioning.base import Site, Window
from plugins.ground.errors import InputError

SITE = Site(6, 32, 16000, TokenStream(name="0", vocab_size=16, hop_length=8))


def tempo(**settings: object) -> Tempo:
    return Tempo(TempoConfig(**settings), SITE)


def row(model: Tempo, given: object, rng: np.random.Generator | None = None) -> int:
    return int(model.prepare({"tempo": given}, Window(0, 1000), rng)["bin"])


def test_bins_are_equal_ratios() -> None:
    model = tempo(slowest=60, fastest=240, bins=2)
    assert [row(model, bpm) for bpm in (60, 119.9, 120.1, 239)] == [1, 1, 2, 2]
    assert [row(model, bpm) for bpm in (1, 240, 9000)] == [1, 2, 2]


@pytest.mark.parametrize("same", [120, 120.0, "120", " 120.0 "])
def test_numbers_may_be_text(same: object) -> None:
    assert row(tempo(), same) == row(tempo(), 120) != 0


@pytest.mark.parametrize("odd", [None, "", "fast", 0, -3, "nan", "inf", [120]])
def test_what_is_no_tempo_is_unknown_but_refused_where_it_was_typed(odd: object) -> None:
    model = tempo()
    assert row(model, odd) == 0
    if odd is not None:
        with pytest.raises(InputError, match="is no number above 0"):
            model.check({"tempo": odd})
    model.check({})


def test_training_hides_it_now_and_then() -> None:
    rng = np.random.default_rng(0)
    seen = [row(tempo(dropout=0.5), 120, rng) for _ in range(200)]
    assert 70 < seen.count(0) < 130
    assert row(tempo(dropout=1), 120) != 0


def test_a_bin_is_one_vector_of_a_start() -> None:
    model = tempo()
    start = model({"bin": torch.tensor([0, 3, 3])}).start
    assert start.shape == (3, 1, 6)
    assert torch.equal(start[1], start[2])
    assert not torch.equal(start[0], start[1])


def test_a_range_that_can_not_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="slowest is 200"):
        tempo(slowest=200, fastest=100)
