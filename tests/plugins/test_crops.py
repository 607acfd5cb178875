import pickle

import numpy as np
import pytest

from plugins.ground.crops import Crops


def test_an_epoch_visits_every_stretch_once() -> None:
    crops = Crops([10, 25, 3], 10, seed=1, shift=False)
    assert len(crops) == 1 + 3 + 1
    seen = sorted(crops(i) for i in range(len(crops)))
    assert seen == [(0, 0), (1, 0), (1, 10), (1, 15), (2, 0)]
    assert sorted(crops(i) for i in range(len(crops), 2 * len(crops))) == seen


@pytest.mark.parametrize("align", [1, 4])
def test_shifted_crops_stay_inside_and_aligned(align: int) -> None:
    lengths = [100, 7, 33]
    crops = Crops(lengths, 16, seed=2, align=align)
    starts = set()
    for i in range(300):
        track, start = crops(i)
        assert start % align == 0
        assert 0 <= start <= max(0, lengths[track] - 16)
        starts.add((track, start))
    assert len(starts) > 15


def test_items_are_a_function_of_seed_and_index() -> None:
    first, again = Crops([1000] * 5, 10, seed=3), Crops([1000] * 5, 10, seed=3)
    backwards = [again(i) for i in reversed(range(600))][::-1]
    assert [first(i) for i in range(600)] == backwards
    assert [Crops([1000] * 5, 10, seed=4)(i) for i in range(600)] != backwards
    copy = pickle.loads(pickle.dumps(first))
    assert [copy(i) for i in range(20)] == backwards[:20]
    assert first.rng(7).random() == copy.rng(7).random() != first.rng(8).random()


def test_orders_differ_between_epochs() -> None:
    crops = Crops([1000], 10, seed=5, shift=False)
    order = [crops(i) for i in range(200)]
    assert order[:100] != order[100:]
    assert np.unique([start for _, start in order[:100]]).size == 100
