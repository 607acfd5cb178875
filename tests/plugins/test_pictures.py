"""What the report's pages are made of: spectrograms, smoothed curves, markup."""

import numpy as np
import pytest

from plugins.report.charts import smooth
from plugins.report.markup import escape, join, tag
from plugins.report.pictures import COLUMNS, ROWS, Scale, spectrogram

RATE = 22050


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
@pytest.mark.parametrize("pitch", [440.0, 3000.0])
def test_a_sine_is_a_line_at_its_frequency_and_level(rate: int, pitch: float) -> None:
    audio = 0.1 * np.sin(2 * np.pi * pitch * np.arange(2 * rate) / rate)
    scale = Scale(top=22050)
    levels = spectrogram(audio.astype(np.float32), rate, scale)
    assert len(levels) == ROWS
    middle = levels[:, 20:-20]
    mel = 2595 * np.log10(1 + np.array([pitch, scale.top]) / 700)
    assert np.abs(middle.argmax(0) - mel[0] / mel[1] * (ROWS - 1)).max() <= 1.5
    assert middle.max() == pytest.approx(-20, abs=3)
    above = 2595 * np.log10(1 + (rate / 2 + 200) / 700) / mel[1] * ROWS
    assert (levels[int(np.ceil(above)) :] == pytest.approx(scale.floor)) or rate == 44100


def test_long_audio_gives_no_larger_picture() -> None:
    noise = np.random.default_rng(0).normal(size=60 * RATE).astype(np.float32) * 0.1
    levels = spectrogram(noise, RATE, Scale(RATE / 2))
    assert COLUMNS / 2 < levels.shape[1] <= 2 * COLUMNS
    # What is averaged must not lose loudness.
    short = spectrogram(noise[: 4 * RATE], RATE, Scale(RATE / 2))
    power = [np.mean(10 ** (part / 10)) for part in (levels, short)]
    assert power[0] == pytest.approx(power[1], rel=0.05)


def test_smoothing_keeps_straight_lines_and_removes_noise() -> None:
    assert smooth([(1, 2.0)]) == [(1, 2.0)]
    line = [(step, 2.0 * step) for step in range(200)]
    middle = slice(10, -10)
    assert np.allclose(smooth(line)[middle], line[middle])
    noise = np.random.default_rng(0).normal(size=500)
    smoothed = np.array(smooth(list(enumerate(noise))))[:, 1]
    assert smoothed.std() < 0.4 * noise.std()


def test_markup_escapes_all_but_its_own() -> None:
    assert tag("p", "<b>", tag("i", "&"), None, ["x", "'"]) == "<p>&lt;b&gt;<i>&amp;</i>x&#x27;</p>"
    assert (
        tag("img", alt='"<', hidden=True, title=None, open=False) == '<img alt="&quot;&lt;" hidden>'
    )
    assert tag("a", class_="c", aria_label="l") == '<a class="c" aria-label="l"></a>'
    assert join(escape("<"), "<") == "&lt;&lt;"
