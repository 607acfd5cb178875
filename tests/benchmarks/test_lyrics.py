"""The comparison of aligners: its figures, and that it runs and goes on."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from lyrics import Row, Setting, results, table  # noqa: E402
from lyrics_errors import Errors, errors, lrc, onset_errors  # noqa: E402
from lyrics_picture import Example, draw  # noqa: E402

from conditioning.maps import Picture  # noqa: E402

TRUTH = {"a": [0.0, 1.0, 2.0], "b": [10.0]}
LINE = {"a": [0.0, 2.0, 4.0], "b": [14.0]}


def test_errors_are_distances_of_onsets_whatever_their_sign() -> None:
    found = {"a": [0.25, 0.5, 2.5], "b": [10.0]}
    made = errors(TRUTH, found, LINE)
    assert made == Errors(words=4, mean=1.25 / 4, median=0.375, near=0.5, unaligned=0.0)


def test_a_word_is_near_up_to_the_limit() -> None:
    made = errors({"a": [0.0, 1.0, 2.0, 3.0]}, {"a": [0.3, 0.71, 2.31, 2.69]}, {"a": [0.0] * 4})
    assert made.near == 0.5


@pytest.mark.parametrize("found", [{"a": [0.0, 1.0, 2.0]}, {"a": [0.0, 1.0, 2.0], "b": []}])
def test_for_songs_that_were_not_aligned_the_straight_line_counts(
    found: dict[str, list[float]],
) -> None:
    made = errors(TRUTH, found, LINE)
    assert (made.mean, made.unaligned, made.near) == (1.0, 0.25, 0.75)
    nothing = errors(TRUTH, {}, LINE)
    assert nothing.unaligned == 1
    assert nothing == Errors(4, 7 / 4, 1.5, 0.25, 1.0)


def test_other_words_than_the_truth_are_no_small_error() -> None:
    with pytest.raises(ValueError, match="2 words were found of 3"):
        onset_errors(TRUTH["a"], [0.0, 1.0])
    with pytest.raises(ValueError, match="there are no words"):
        errors({}, {}, {})


def test_lines_with_the_times_of_their_first_words() -> None:
    text = "One two\n\nthree,  four \nfive"
    onsets = [0.004, 1.0, 59.996, 61.0, 3723.456]
    made = lrc(text, onsets)
    assert made == "[00:00.00]One two\n[01:00.00]three,  four\n[62:03.46]five\n"


def row(aligner: str, voice: str, level: float | None, mean: float, lost: float = 0.0) -> Row:
    return Row(aligner, Setting(voice, level), Errors(7, mean, mean / 2, 0.4, lost))


ROWS = [
    row("linear", "sung", None, 3.0),
    row("linear", "sung", 10.0, 3.0),
    row("attention", "sung", None, 0.25),
    row("attention", "sung", 10.0, 1.5, 0.5),
    row("attention", "spoken", None, 0.001),
]


def test_the_table_has_a_row_for_each_aligner_and_setting() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(ROWS))
    lines = console.export_text().splitlines()
    cells = [[c.strip() for c in line.strip("│").split("│")] for line in lines if "│" in line]
    assert cells == [
        ["linear", "sung", "alone", "7", "3.00", "1.50", "40%", "0%"],
        ["", "sung", "+10 dB", "7", "3.00", "1.50", "40%", "0%"],
        ["attention", "sung", "alone", "7", "0.25", "0.12", "40%", "0%"],
        ["", "sung", "+10 dB", "7", "1.50", "0.75", "40%", "50%"],
        ["", "spoken", "alone", "7", "0.00", "0.00", "40%", "0%"],
    ]


def test_results_can_be_read_by_programs() -> None:
    made = json.loads(json.dumps(results(ROWS, {"x": "not here"}, Path("m"))))
    assert made["rows"][3] == {
        "aligner": "attention",
        "voice": "sung",
        "level_db": 10.0,
        "words": 7,
        "mean": 1.5,
        "median": 0.75,
        "near": 0.4,
        "unaligned": 0.5,
    }
    assert (made["lacking"], made["model"]) == ({"x": "not here"}, "m")


def test_the_picture_has_a_panel_a_voice_and_one_for_the_song(tmp_path: Path) -> None:
    levels = np.eye(5, dtype=np.uint8) * 255
    behind = Picture(levels, 3.0, 5)
    one = Example("s", "a b c", [0.5, 1, 2], [0, 1, 2], "attention", [0.4, 1, 2], behind)
    sizes = []
    for number, (rows, example) in enumerate([(ROWS, one), (ROWS, None), (ROWS[:4], None)]):
        path = tmp_path / f"{number}.png"
        draw(path, rows, example)
        sizes.append(matplotlib.image.imread(path).shape[1])
    assert sizes[0] / 3 == sizes[1] / 2 == sizes[2]


def bench(out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """The script on one text."""
    words = ["--out", str(out), "--songs", "1", "--levels", "10", "--music", str(out.parent / "m")]
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "lyrics.py"), "--voices", "spoken", *words, *options],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="nobody speaks here")
def test_it_measures_what_can_work_here_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    music = BENCHMARKS.parent / "examples" / "music" / "maxstack-coherence.ogg"
    (tmp_path / "m" / music.name).symlink_to(music)
    options = ["--aligners", "linear", "--aligners", "lrc", "--aligners", "attention"]
    first = bench(tmp_path / "out", *options)
    assert first.returncode == 0, first.stderr
    assert "attention: not measured: needs a prior" in first.stdout
    made = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    found = {(r["aligner"], r["level_db"]): r for r in made["rows"]}
    assert list(found) == [(name, level) for name in ("linear", "lrc") for level in (None, 10.0)]
    assert all(r["voice"] == "spoken" and r["unaligned"] == 0 for r in made["rows"])
    # Neither of them listens, but one knows when lines begin.
    for name in ("linear", "lrc"):
        assert found[name, None]["mean"] == found[name, 10.0]["mean"]
    assert found["lrc", None]["mean"] < found["linear", None]["mean"]
    assert found["lrc", None]["near"] > found["linear", None]["near"] + 0.2
    for name in ("lyrics.png", "spoken.html", "spoken+10dB.html"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    (tmp_path / "out" / "results.json").unlink()
    again = bench(tmp_path / "out", *options)
    assert again.returncode == 0, again.stderr
    assert "tokenizing" not in again.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8")) == made
