"""Total length, absolute and relative position, against values computed by hand."""

import pytest
import torch
from pydantic import ValidationError

from codec.tokens import TokenStream
from conditioning.base import Provides, Site, Window
from conditioning.timing import Timing

RATE = 100
"""Samples per second; at hop 10, ten codes are a second."""


def timing(context: int = 8, hop: int = 10, width: int = 4, **settings) -> Timing:
    settings = {"bins": 10, "total_seconds": (10, 110), "absolute_seconds": (0, 100)} | settings
    stream = TokenStream(name="2", vocab_size=16, hop_length=hop)
    return Timing(Timing.Config(**settings), Site(width, context, RATE, stream))


def bins(model: Timing, *windows: Window) -> tuple[list, list, list]:
    items = [model.prepare({}, window) for window in windows]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return tuple(part.tolist() for part in model.bins(batch))


def test_prepare_gives_samples():
    prepared = timing().prepare({}, Window(start=7, total=5000))
    assert {name: int(value) for name, value in prepared.items()} == {
        "total": 5000,
        "start": 70,
        "end": 150,
    }
    assert all(value.dtype == torch.int64 and value.shape == () for value in prepared.values())


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 0), (9.99, 0), (10, 0), (19.99, 0), (20, 1), (59, 4), (109.99, 9), (110, 9), (1e4, 9)],
)
def test_total_length_is_binned_and_clamped(seconds, expected):
    assert bins(timing(), Window(0, round(seconds * RATE)))[0] == [[expected]]


def test_absolute_position_goes_through_the_window():
    # 8 codes of 5 s each, bins of 10 s.
    model = timing(hop=500)
    assert bins(model, Window(0, 20000))[1] == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert bins(model, Window(3, 20000))[1] == [[1, 2, 2, 3, 3, 4, 4, 5]]
    assert bins(model, Window(17, 20000))[1] == [[8, 9, 9, 9, 9, 9, 9, 9]]


def test_relative_position_goes_through_the_track():
    # 8 codes of 5 s each in 80 s, bins of 8 s.
    model = timing(hop=500)
    assert bins(model, Window(0, 8000))[2] == [[0, 0, 1, 1, 2, 3, 3, 4]]
    assert bins(model, Window(8, 8000))[2] == [[5, 5, 6, 6, 7, 8, 8, 9]]


def test_the_relative_end_is_clamped_before_interpolation():
    # The window is twice as long as the track: its steps are squeezed into the track.
    assert bins(timing(hop=500), Window(0, 2000))[2] == [[0, 1, 2, 3, 5, 6, 7, 8]]


def test_a_window_behind_the_end_is_in_the_last_bin():
    assert bins(timing(hop=500), Window(16, 2000))[2] == [[9] * 8]


def test_a_track_of_no_length_is_no_trouble():
    total, _, relative = bins(timing(), Window(0, 0))
    assert total == [[0]]
    assert all(0 <= i < 10 for i in relative[0])


def test_items_of_a_batch_are_independent():
    model = timing(hop=500)
    windows = [Window(0, 8000), Window(3, 20000), Window(8, 1000)]
    together = bins(model, *windows)
    for i, window in enumerate(windows):
        assert [part[i : i + 1] for part in together] == list(bins(model, window))


def test_bins_of_the_published_shape():
    # 600 s at 44.1 kHz in 128 bins: a bin is 206,718.75 samples or 1614.99 codes of hop 128.
    stream = TokenStream(name="2", vocab_size=2048, hop_length=128)
    config = Timing.Config(bins=128, total_seconds=(60, 600))
    model = Timing(config, Site(4, 8192, 44100, stream))
    total, absolute, relative = bins(model, Window(0, 120 * 44100))
    assert total == [[14]]  # (120 - 60) / 540 x 128 = 14.2
    changes = [i for i in range(1, 8192) if absolute[0][i] != absolute[0][i - 1]]
    assert changes == [1615, 3230, 4845, 6460, 8075]
    assert relative[0][-1] == 25  # 8191 x 128 / 5,292,000 x 128 = 25.4


def test_positions_are_the_sum_of_three_rows():
    model = timing(hop=500)
    assert model.provides == Provides(position=True)
    items = [model.prepare({}, window) for window in (Window(0, 8000), Window(8, 8000))]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    position = model(batch).position
    assert position.shape == (2, 8, 4)
    total, absolute, relative = model.bins(batch)
    for b, i in ((0, 0), (0, 7), (1, 3)):
        expected = (
            model.total.weight[total[b, 0]]
            + model.absolute.weight[absolute[b, i]]
            + model.relative.weight[relative[b, i]]
        )
        torch.testing.assert_close(position[b, i], expected)


def test_bins_do_not_move_with_the_type_of_the_model():
    model = timing(hop=500)
    batch = {name: value[None] for name, value in model.prepare({}, Window(3, 8000)).items()}
    exact = model.bins(batch)
    model = model.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(exact, model.bins(batch), strict=True))
    assert model(batch).position.dtype == torch.bfloat16


def test_gradients_reach_all_three_tables():
    model = timing(hop=500)
    batch = {name: value[None] for name, value in model.prepare({}, Window(0, 8000)).items()}
    model(batch).position.sum().backward()
    assert model.total.weight.grad[7, 0] == 8  # (80 - 10) / 100 x 10: once for every position
    assert model.absolute.weight.grad[:, 0].tolist() == [2, 2, 2, 2, 0, 0, 0, 0, 0, 0]
    assert model.relative.weight.grad[:, 0].tolist() == [2, 2, 1, 2, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "bad",
    [
        {"bins": 0},
        {"total_seconds": (60, 60)},
        {"absolute_seconds": (10, 0)},
        {"total_seconds": (-1, 60)},
    ],
)
def test_senseless_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        Timing.Config(**bad)
