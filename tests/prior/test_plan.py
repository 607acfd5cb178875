import numpy as np
import pytest

from prior.plan import Step, code_count, steps, uniforms, window_starts


def test_windows_by_hand() -> None:
    assert window_starts(64, 64, 32) == [0]
    assert window_starts(10, 64, 32) == [0]
    assert window_starts(160, 64, 32) == [0, 32, 64, 96]
    assert window_starts(150, 64, 32) == [0, 32, 64, 86]
    assert list(steps(150, 64, 32, 70)) == [
        Step(32, 70, 96),
        Step(64, 96, 128),
        Step(86, 128, 150),
    ]


@pytest.mark.parametrize("total", [1, 7, 16, 17, 100, 257])
@pytest.mark.parametrize("hop", [1, 4, 16])
@pytest.mark.parametrize("done", [0, 1, 15, 16, 60, 99])
def test_every_code_is_made_once_and_seen_in_context(total: int, hop: int, done: int) -> None:
    context = 16
    made = list(range(min(done, total)))
    for step in steps(total, context, hop, done):
        assert step.start <= step.known < step.stop <= step.start + context
        made += range(step.known, step.stop)
    assert made == list(range(max(total, min(done, total))))


def test_resuming_after_any_window_gives_the_same_windows() -> None:
    whole = list(steps(300, 64, 24, 10))
    for i, step in enumerate(whole):
        assert list(steps(300, 64, 24, step.stop)) == whole[i + 1 :]


def test_streams_end_at_the_same_sample() -> None:
    for samples in (1, 127, 128, 129, 44100):
        ends = {code_count(samples, hop, 128) * hop for hop in (8, 32, 128)}
        assert len(ends) == 1
        assert samples <= ends.pop() < samples + 128


def test_uniforms_are_a_function_of_the_position() -> None:
    whole = uniforms(7, 3, 1, 0, 1000)
    assert whole.dtype == np.float64
    assert 0 <= whole.min() < 0.01 < 0.99 < whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.03
    for start, stop in [(0, 5), (1, 2), (3, 9), (517, 1000), (999, 1000)]:
        assert np.array_equal(uniforms(7, 3, 1, start, stop), whole[start:stop])
    for other in [(8, 3, 1), (7, 4, 1), (7, 3, 2)]:
        assert not np.isin(uniforms(*other, 0, 1000), whole).any()
