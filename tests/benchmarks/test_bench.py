"""Benchmarks run, and leave tables and figures; the page tells what they found. No speeds here."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from summary import number, read_rows, write_page, write_summary
from summary_sections import SECTIONS, TARGETS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "out" / "bench" / "peers-env"
PNG = b"\x89PNG"


def run(script: str, out: Path, *options: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--quick", *options]
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, cwd=out, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


def check_shown(figure: Path) -> None:
    """A script's figure is there, and the page shows it and rows of its table."""
    content = figure.read_bytes()
    assert content.startswith(PNG)
    assert len(content) > 5000
    title = next(section.title for section in SECTIONS if figure.name in section.figures)
    shown = page_of(figure.parent).split(f"\n## {title}\n")[1].split("\n## ")[0]
    assert f"![{title}](" in shown
    assert shown.count("\n|") > 2, shown


def test_limits_are_positive_and_of_both_kinds(tmp_path):
    run("limits", tmp_path)
    rows = read_rows(tmp_path / "limits.csv")
    assert {row["limit"] for row in rows} == {"peak", "bandwidth"}
    assert all(float(row["best"]) > 0 for row in rows)
    check_shown(tmp_path / "limits.png")


def test_attention_agrees_with_naive_wherever_it_serves(tmp_path):
    run("attention", tmp_path, "--patterns", "row,column,summary,memory")
    rows = read_rows(tmp_path / "attention.csv")
    assert {"naive", "flash", "sparse"} <= {row["kernel"] for row in rows}
    assert {row["passes"] for row in rows} == {"forward", "and backward"}
    for row in rows:
        assert float(row["error"]) < 1e-4, row
        assert float(row["ms"]) > 0
        assert float(row["peak_mib"]) > 0
    check_shown(tmp_path / "attention.png")


def test_coding_measures_both_engines_and_lengths(tmp_path):
    run("coding", tmp_path)
    rows = read_rows(tmp_path / "coding.csv")
    assert {(row["what"], row["level"]) for row in rows} == {
        *(("encode", level) for level in ("all", "0", "1", "2")),
        *(("decode", level) for level in ("0", "1", "2")),
    }
    assert all(float(row["speed"]) > 0 and float(row["share_of_limit"]) > 0 for row in rows)
    lengths = read_rows(tmp_path / "coding_length.csv")
    assert {row["what"] for row in lengths} == {"encode", "decode"}
    for row in lengths:
        assert float(row["resident_mib"]) > float(row["allocator_mib"]) > 0
    check_shown(tmp_path / "coding.png")
    check_shown(tmp_path / "coding_length.png")


def test_sampling_counts_codes_that_are_those_of_plain_steps(tmp_path):
    run("sampling", tmp_path)
    rows = read_rows(tmp_path / "sampling.csv")
    assert {row["prior"] for row in rows} == {"tiny", "large"}
    assert {row["precision"] for row in rows} == {"float32", "bfloat16", "int8"}
    for row in rows:
        found, of = map(int, row["equal"].split(" of "))
        assert found == of or row["precision"] != "float32", row
    bits = {
        r["precision"]: float(r["bits_per_code"]) for r in read_rows(tmp_path / "precision.csv")
    }
    assert bits["int8"] == pytest.approx(bits["float32"], abs=0.05)
    assert bits["bfloat16"] == pytest.approx(bits["float32"], abs=0.05)
    check_shown(tmp_path / "sampling.png")


def test_scale_measures_three_sizes_and_plans_from_them(tmp_path):
    run("scale", tmp_path, "--page", str(tmp_path / "scaling.md"))
    rows = read_rows(tmp_path / "scale.csv")
    for task in ("tokenize", "train", "sample"):
        sizes = [float(row["size"]) for row in rows if row["what"] == task]
        assert len(sizes) == 3
        assert sizes == sorted(sizes)
    assert all(float(row["seconds"]) > 0 and float(row["memory_mib"]) > 0 for row in rows)
    top, *_, finest = read_rows(tmp_path / "plan.csv")
    assert float(finest["codes"]) == 16 * float(top["codes"])  # hops 8 and 128
    assert float(top["codes"]) == pytest.approx(1.2e6 * 240 * 44100 / 128)
    page = (tmp_path / "scaling.md").read_text("utf-8")
    assert "torchrun" in page
    assert f"{float(top['hours_512']):.1f}" in page
    assert (tmp_path / "scaling-growth.png").read_bytes().startswith(PNG)


def test_growth_changes_one_thing_at_a_time(tmp_path):
    run("growth", tmp_path)
    rows = read_rows(tmp_path / "growth.csv")
    assert {row["against"] for row in rows} == {"context", "batch", "depth"}
    assert sum(row["seconds_exponent"] == "" for row in rows) == 6  # the first of every line
    check_shown(tmp_path / "growth.png")


@pytest.mark.skipif(not ENVIRONMENT.exists(), reason="make bench installs transformers 4.57.6")
def test_peers_answer_every_question_of_the_summary(tmp_path):
    run("peers", tmp_path, "--environment", str(ENVIRONMENT))
    write_summary(tmp_path)
    rows = read_rows(tmp_path / "summary.csv")
    assert [row["question"] for row in rows] == list(TARGETS)
    assert list(rows[0]) == ["question", "ours", "peer", "unit", "ratio", "share_of_limit"]
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["ours"]) / float(row["peer"]))
        assert row["share_of_limit"] == "" or float(row["share_of_limit"]) > 0
    check_shown(tmp_path / "peers.png")


def test_peers_are_left_out_of_a_quick_run_without_their_environment(tmp_path):
    run("peers", tmp_path, "--environment", str(tmp_path / "nowhere"))
    assert not (tmp_path / "peers.csv").exists()


def test_a_driver_goes_on_where_it_was_stopped(tmp_path):
    run("bench", tmp_path, "--only", "limits")
    first = (tmp_path / "limits.csv").stat().st_mtime_ns
    run("bench", tmp_path, "--only", "limits")
    assert (tmp_path / "limits.csv").stat().st_mtime_ns == first
    run("bench", tmp_path, "--only", "limits", "--again")
    assert (tmp_path / "limits.csv").stat().st_mtime_ns != first
    page = (tmp_path / "performance.md").read_text("utf-8")
    assert "GFLOP/s" in page
    assert (tmp_path / "performance-limits.png").stat().st_size < 100_000


# The page


def write(path: Path, *rows: dict[str, object]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def answer(question: str, ratio: float, share: object = "", **more: object) -> dict[str, object]:
    row = {"question": question, "ours": ratio, "peer": 1.0, "unit": "codes a second"}
    return {**row, "ratio": ratio, "share_of_limit": share, "model": "Jukebox", **more}


def page_of(folder: Path) -> str:
    write_summary(folder)
    write_page(folder, folder / "page.md", folder / "notes.md")
    return (folder / "page.md").read_text("utf-8")


def test_a_page_of_nothing_says_so(tmp_path):
    page = page_of(tmp_path)
    assert page.count("Not measured yet.") == len(SECTIONS) + 1
    assert not (tmp_path / "summary.csv").exists()


def test_a_verdict_needs_ratio_and_share(tmp_path):
    write(
        tmp_path / "peers.csv",
        answer("encode", 3.6, 0.4),
        answer("encodec_encode", 0.1, model="Encodec, 1.5 million parameters"),
        answer("decode", 6.5, 0.8),
        answer("large_prior_1", 2.6, 0.85),
        answer("large_prior_1_int8", 3.9, 0.9),
        answer("training_memory", 0.59),
    )
    lines = page_of(tmp_path).splitlines()
    verdicts = {line.split(" | ")[0][2:]: line.split(" | ")[-1] for line in lines if "≥" in line}
    assert verdicts["code audio, all levels"] == "yes |"
    assert verdicts["decode level 0"] == "yes, and the aim |"
    assert verdicts["large prior, 1 item"] == "**not the share** |"
    assert verdicts["large prior, 1 item, int8 weights"] == "**no** |"
    assert any("≤ 0.6 | yes |" in line for line in lines)
    assert [row["question"] for row in read_rows(tmp_path / "summary.csv")] == [
        "encode", "decode", "large_prior_1", "large_prior_1_int8", "training_memory"
    ]  # fmt: skip


def test_codes_of_a_windows_start_and_middle_count_alike(tmp_path):
    write(
        tmp_path / "peers.csv",
        answer("large_prior_1", 40.0, 0.9, peer=20.0),
        answer("large_prior_1_later", 40.0, 1.0, peer=5.0),
    )
    page = page_of(tmp_path)
    (row,) = read_rows(tmp_path / "summary.csv")
    # A code took 1/20 s, then 1/5 s: 1/8 s on average.
    assert float(row["peer"]) == pytest.approx(8)
    assert float(row["ratio"]) == pytest.approx(5)
    assert float(row["share_of_limit"]) == pytest.approx(0.95)
    assert "large prior 1 later 40 beside 5" in page


def test_memory_of_an_hour_is_held_against_that_of_a_minute(tmp_path):
    write(tmp_path / "peers.csv", answer("encode", 4.0, 0.5))

    def length(seconds: int, resident: float) -> dict[str, object]:
        common = {"what": "encode", "engine": "auto", "codes_mib": seconds / 60}
        return {**common, "seconds": seconds, "grown_mib": 0, "resident_mib": resident}

    write(tmp_path / "coding_length.csv", length(60, 401), length(3600, 464))
    assert "404 and 400 MiB: the same" in page_of(tmp_path)
    write(tmp_path / "coding_length.csv", length(60, 401), length(3600, 600))
    assert "NOT the same" in page_of(tmp_path)


def test_notes_are_taken_into_the_page(tmp_path):
    (tmp_path / "notes.md").write_text("## What was tried\n\nMuch.\n", "utf-8")
    assert page_of(tmp_path).endswith("## What was tried\n\nMuch.\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("12.3456", "12.3"), ("1234.5", "1234"), ("0.00001", "1.0e-05"), ("7.0", "7"), ("row", "row")],
)
def test_numbers_are_short(text, shown):
    assert number(text) == shown
