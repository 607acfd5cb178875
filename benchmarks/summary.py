"""What all benchmarks found, as `summary.csv` and as a page. It measures nothing.

It reads the tables that the scripts left in one folder and takes what is there: a script that has
not run yet is a line on the page that says so.
"""

import csv
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from measuring import write_csv
from summary_sections import SECTIONS, TARGETS, Section, Target

from plugins.ground.files import published

Row = Mapping[str, str]
SUMMARY = ("question", "ours", "peer", "unit", "ratio", "share_of_limit")
"""Columns of `summary.csv`."""
SIDES = ("ours", "peer")
LATER = "_later"
"""What a question's name ends in where it is asked again from a window's middle on."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Of a table; none if it isn't there."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_summary(out: Path) -> None:
    """Write the questions that have a target, with what was measured, in the order of those."""
    found = {r["question"]: r for r in read_rows(out / "peers.csv") if r["model"] == "Jukebox"}
    rows = [
        _over_a_window(name, [found[name], found.get(f"{name}{LATER}", found[name])])
        for name in TARGETS
        if name in found
    ]
    if rows:
        write_csv(out / "summary.csv", rows)


def _over_a_window(name: str, parts: Sequence[Row]) -> dict[str, str | float]:
    """A row of the summary: as many codes at a window's start as from its middle on, together.

    Where only the start was measured, or where that is no question, it is that.
    """
    rates = {side: statistics.harmonic_mean([float(p[side]) for p in parts]) for side in SIDES}
    shares = [float(part["share_of_limit"]) for part in parts if part["share_of_limit"]]
    return {
        "question": name,
        **rates,
        "unit": parts[0]["unit"],
        "ratio": rates["ours"] / rates["peer"],
        "share_of_limit": statistics.mean(shares) if shares else "",
    }


def write_page(out: Path, page: Path, notes: Path) -> None:
    """Write the page and, beside it, its figures as `performance-*.png`.

    Args:
        out: folder of tables and figures.
        page: Markdown.
        notes: a file that is taken into it as it is.
    """
    lines = ["# Performance", "", *_introduction(out), "", *_verdicts(out)]
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", *_section(section, out, page)]
    if notes.exists():
        lines += ["", notes.read_text("utf-8").strip()]
    with published(page) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8")


def _introduction(out: Path) -> Iterator[str]:
    limits = read_rows(out / "limits.csv")
    best = {row["limit"]: 0.0 for row in limits}
    for row in limits:
        best[row["limit"]] = max(best[row["limit"]], float(row["best"]))
    yield (
        "`make bench` measures all of this in one run and writes this page. Times are medians; "
        "what is compared takes turns, so the ratios hold where the figures alone would not."
    )
    yield ""
    yield (
        f"The machine: {_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; "
        f"PyTorch {torch.__version__}."
    )
    if best:
        yield (
            f"Its limits, measured in the same run: {best.get('peak', 0):.0f} GFLOP/s in float32, "
            f"{best.get('bandwidth', 0):.1f} GB/s from memory."
        )


# Beside transformers


def _verdicts(out: Path) -> Iterator[str]:
    yield "## Beside the Jukebox of transformers"
    yield ""
    yield (
        "The same shapes with random weights, transformers 4.57.6 in an environment of its own "
        "(`benchmarks/peers.py`): the published codec on 20 s of music, a prior of 162 million "
        "parameters (width 1024, depth 48, context 8192), one of 2.5 million (width 256, depth 8, "
        "context 1024), and training one of 15 million (width 512, depth 16, context 2048, batch "
        "of 2). Of a large prior at 1 item, as many codes are timed at a window's start as from "
        "its middle on, since the other side slows down as its caches grow; each alone is below. "
        "*Of the limit* is the larger share of the two limits above."
    )
    yield ""
    rows = {row["question"]: row for row in read_rows(out / "summary.csv")}
    if not rows:
        yield "Not measured yet."
        return
    yield "| question | ours | transformers | unit | ours / theirs | of the limit | wanted | met |"
    yield "|---|--:|--:|---|--:|--:|---|---|"
    for name, target in TARGETS.items():
        if name in rows:
            yield _verdict(target, rows[name])
    parts = [
        f"{r['question'].replace('_', ' ')} {number(r['ours'])} beside {number(r['peer'])} "
        f"({float(r['ratio']):.2f})"
        for r in read_rows(out / "peers.csv")
        if r["question"].startswith("large_prior_1")
    ]
    yield from ("", f"In codes a second: {'; '.join(parts)}.")
    if told := _same_memory(out):
        yield from ("", told)


def _verdict(target: Target, row: Row) -> str:
    share = f"{float(row['share_of_limit']):.0%}" if row["share_of_limit"] else ""
    cells = [
        target.title,
        number(row["ours"]),
        number(row["peer"]),
        row["unit"],
        f"{float(row['ratio']):.2f}",
        share,
        target.wanted,
        target.verdict(float(row["ratio"]), float(row["share_of_limit"] or 0)),
    ]
    return f"| {' | '.join(cells)} |"


def _same_memory(out: Path) -> str:
    """Whether coding an hour takes the memory of coding a minute."""
    rows = {
        float(row["seconds"]): row
        for row in read_rows(out / "coding_length.csv")
        if row["what"] == "encode" and row["engine"] == "auto"
    }
    if not {60.0, 3600.0} <= rows.keys():
        return ""
    minute, hour = (rows[seconds] for seconds in (60.0, 3600.0))
    held = [float(row["resident_mib"]) - float(row["codes_mib"]) for row in (minute, hour)]
    same = "the same" if held[1] <= 1.05 * held[0] else "NOT the same"
    return (
        f"Coding an hour of audio, the process holds {number(hour['resident_mib'])} MiB at most, "
        f"of a minute {number(minute['resident_mib'])} MiB; less the codes, which are kept "
        f"({number(hour['codes_mib'])} and {number(minute['codes_mib'])} MiB), {held[1]:.0f} and "
        f"{held[0]:.0f} MiB: {same}."
    )


# Sections


def _section(section: Section, out: Path, page: Path) -> Iterator[str]:
    yield section.text
    for name in section.figures:
        if (out / name).exists():
            yield ""
            yield f"![{section.title}]({_copied(out / name, page)})"
    rows = [row for row in read_rows(out / section.table) if section.shows(row)]
    yield ""
    if not rows:
        yield "Not measured yet."
        return
    columns = section.columns or {name: name for name in rows[0]}
    yield f"| {' | '.join(columns.values())} |"
    yield "|" + "|".join("--:" if _is_number(rows[0][c]) else "---" for c in columns) + "|"
    for row in rows:
        yield f"| {' | '.join(number(row[c]) for c in columns)} |"


def _copied(figure: Path, page: Path) -> str:
    """A figure beside the page, in few colours so that it stays small; its name."""
    name = f"performance-{figure.stem.replace('_', '-')}.png"
    page.parent.mkdir(parents=True, exist_ok=True)
    with published(page.with_name(name)) as partial:
        try:
            from PIL import Image
        except ImportError:
            shutil.copyfile(figure, partial)
        else:
            with Image.open(figure) as image:
                image.convert("RGB").quantize(64).save(partial, optimize=True)
    return name


def number(text: str) -> str:
    """A table's cell: numbers with three digits that count, all else as it is."""
    if not _is_number(text):
        return text
    value = float(text)
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return str(int(value)) if value == int(value) else f"{value:.{digits}f}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _processor() -> str:
    """What the processor calls itself."""
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "an unnamed processor"
