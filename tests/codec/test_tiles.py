"""Tiles: index arithmetic, for any lengths."""

from hypothesis import given
from hypothesis import strategies as st

from codec.config import PRESETS, VQVAEConfig
from codec.tiles import Tile, Tiling

tilings = st.builds(
    lambda hop, length, halo: Tiling(hop * length, hop * halo),
    st.sampled_from([1, 8, 128]),
    st.integers(1, 40),
    st.integers(0, 30),
)


@given(tilings, st.integers(0, 20_000))
def test_tiles_partition_the_audio_and_see_their_halo_or_its_end(tiling, total):
    tiles = list(tiling.tiles(total))
    answered = [sample for tile in tiles for sample in range(tile.start, tile.stop)]
    assert answered == list(range(total))
    for tile in tiles:
        assert tile.start % tiling.length == 0
        assert tile.left == max(0, tile.start - tiling.halo)
        assert tile.right == min(total, tile.stop + tiling.halo)


@given(tilings, st.integers(0, 20_000), st.integers(0, 5))
def test_a_walk_taken_up_later_goes_on_with_the_same_tiles(tiling, total, skipped):
    tiles = list(tiling.tiles(total))
    assert list(tiling.tiles(total, skipped * tiling.length)) == tiles[skipped:]


@given(st.integers(1, 100_000), st.sampled_from([2, 8, 32, 128]))
def test_a_fitted_tiling_is_the_shortest_that_is_long_enough(reach, hop):
    tiling = Tiling.fit(reach, hop)
    assert tiling.length % hop == tiling.halo % hop == 0
    assert reach <= tiling.halo < reach + hop
    enough = max(28 * tiling.halo, 2**17)
    assert enough <= tiling.length < enough + hop


def test_an_endless_tile_has_no_right_end():
    assert Tiling(100, 20).tile(100) == Tile(100, 200, 80, 220)
    assert Tiling(100, 20).tile(100, total=150) == Tile(100, 150, 80, 150)


def test_the_published_codec_is_cut_every_30_seconds():
    config = VQVAEConfig(**PRESETS["jukebox"])
    tiling = Tiling.fit(config.halo, config.hops[-1])
    assert config.halo == 45_936
    assert tiling.halo == 45_952
    assert 29 < tiling.length / config.sample_rate < 30
    assert 2 * tiling.halo / tiling.length < 0.075
