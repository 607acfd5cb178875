"""Codes of the stream above: which are cut out, and where they show."""

import numpy as np
import pytest
import torch

from codec.tokens import TokenStream
from conditioning.base import Provides, Site, Window
from conditioning.codes import UpperCodes
from plugins.ground.errors import InputError

SMALL = {"width": 8, "depth": 2, "dilation_growth": 3, "dilation_cycle": 2}


def site(hop: int = 8, upper_hop: int | None = 32, context: int = 32) -> Site:
    return Site(
        width=6,
        context=context,
        sample_rate=44100,
        stream=TokenStream(name="0", vocab_size=16, hop_length=hop),
        upper=upper_hop and TokenStream(name="1", vocab_size=50, hop_length=upper_hop),
    )


def upper_codes(where: Site | None = None, **settings) -> UpperCodes:
    torch.manual_seed(0)
    return UpperCodes(UpperCodes.Config(**{**SMALL, **settings}), where or site())


def cut(codes, start: int, model: UpperCodes | None = None) -> list[int]:
    prepared = (model or upper_codes()).prepare({"codes_1": codes}, Window(start, 10**6))
    assert prepared["codes"].dtype == torch.int64
    return prepared["codes"].tolist()


TRACK = np.arange(1, 21, dtype=np.uint16)
"""Upper codes 1 to 20: code j stands at position j - 1, over codes 4 (j - 1) to 4 j - 1."""


def test_the_window_of_upper_codes_lies_over_the_window_of_codes():
    assert cut(TRACK, 0) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert cut(TRACK, 16) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert cut(TRACK.tolist(), 48) == [13, 14, 15, 16, 17, 18, 19, 20]


def test_a_window_past_the_end_repeats_the_last_code():
    assert cut(TRACK, 64) == [17, 18, 19, 20, 20, 20, 20, 20]
    assert cut(TRACK[:3], 0) == [1, 2, 3, 3, 3, 3, 3, 3]
    assert cut(TRACK[:3], 32) == [3] * 8
    assert cut(TRACK[:0], 0) == [0] * 8


def test_cutting_leaves_the_track_alone():
    track = TRACK.copy()
    prepared = upper_codes().prepare({"codes_1": track}, Window(0, 640))
    prepared["codes"].zero_()
    assert np.array_equal(track, TRACK)


def test_a_window_between_two_upper_codes_is_refused():
    with pytest.raises(InputError, match="no multiple of 4"):
        cut(TRACK, 6)


@pytest.mark.parametrize("track", [{"id": "x", "codes_0": TRACK}, {"id": "x", "codes_1": None}])
def test_a_track_without_upper_codes_is_refused(track):
    with pytest.raises(InputError, match="'x' has no codes_1"):
        upper_codes().prepare(track, Window(0, 640))


@pytest.mark.parametrize("upper_hop", [24, 20, 4, 100])
def test_hops_whose_ratio_is_no_power_of_two_are_refused(upper_hop):
    with pytest.raises(InputError, match=f"has {upper_hop}"):
        upper_codes(site(upper_hop=upper_hop))


def test_a_top_stream_has_no_upper_codes():
    with pytest.raises(InputError, match="no stream above"):
        upper_codes(site(upper_hop=None))


def test_a_context_that_ends_within_an_upper_code_is_refused():
    with pytest.raises(InputError, match="multiple of 4"):
        upper_codes(site(context=30))


@pytest.mark.parametrize("upper_hop", [8, 16, 32, 64])
def test_positions_come_out_at_the_rate_of_the_codes(upper_hop):
    model = upper_codes(site(upper_hop=upper_hop))
    assert model.provides == Provides(position=True)
    codes = torch.randint(50, (3, 32 * 8 // upper_hop))
    position = model({"codes": codes}).position
    assert position.shape == (3, 32, 6)
    torch.testing.assert_close(position.mean(-1), torch.zeros(3, 32), atol=1e-5, rtol=0)


def reach(depth: int, ratio: int) -> int:
    """Codes to each side of an upper code that it can change, with dilations 1, 3, 1, 3, …"""
    dilations = sum(3 ** (i % 2) for i in range(depth))
    if ratio == 1:
        return 1 + dilations + 1
    reach, doublings = 1, ratio.bit_length() - 1
    for _ in range(doublings):
        reach = 2 * (reach + dilations) + 1
    return reach


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_an_upper_code_changes_the_positions_around_it_and_no_others(ratio):
    where = site(upper_hop=8 * ratio, context=160)
    model = upper_codes(where)
    codes = torch.randint(50, (32, 160 // ratio))  # a ReLU may hide the edge in one of them
    changed = codes.clone()
    j = 70 // ratio
    changed[:, j] = (codes[:, j] + 1) % 50
    with torch.no_grad():
        moved = (model({"codes": codes}).position - model({"codes": changed}).position).abs()
    touched = moved.amax((0, 2)).nonzero().flatten()
    first, last = ratio * j, ratio * (j + 1) - 1
    side = reach(model.config.depth, ratio)
    assert set(range(first, last + 1)) <= set(touched.tolist())
    assert touched.min() == first - side
    assert touched.max() == last + side


def test_items_of_a_batch_are_independent():
    model = upper_codes()
    codes = torch.randint(50, (3, 8))
    together = model({"codes": codes}).position
    torch.testing.assert_close(model({"codes": codes[1:2]}).position, together[1:2])


def test_gradients_reach_every_parameter():
    model = upper_codes()
    codes = torch.randint(50, (2, 8))
    (model({"codes": codes}).position ** 3).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_residual_branches_are_scaled_on_demand():
    scaled, unscaled = upper_codes(), upper_codes(res_scale=False)
    codes = torch.randint(50, (1, 8))
    unscaled.load_state_dict(scaled.state_dict())
    assert not torch.allclose(
        scaled({"codes": codes}).position, unscaled({"codes": codes}).position
    )
    with torch.no_grad():  # scaling the last convolution of each branch by hand gives the same
        for name, parameter in unscaled.named_parameters():
            if "pointwise" in name:
                parameter *= 2**-0.5
    torch.testing.assert_close(
        scaled({"codes": codes}).position, unscaled({"codes": codes}).position
    )


def test_the_defaults_are_the_published_shape():
    with torch.device("meta"):
        model = UpperCodes(UpperCodes.Config(), site(context=8192))
    blocks = [name for name, _ in model.named_modules() if name.endswith("dilated")]
    assert len(blocks) == 2 * 16
    dilations = [model.get_submodule(name).dilation[0] for name in blocks[:16]]
    assert dilations == [3**i for i in range(8)] * 2
    assert model.get_submodule(blocks[0]).weight.shape == (1024, 1024, 3)
