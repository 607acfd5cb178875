"""From rates that were measured to what the paper's corpus would take; it measures nothing.

Everything that is assumed and not measured is a constant here, and stands on the page.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from arithmetic import CODEC
from measuring import Row
from summary import number, read_rows

from plugins.ground.files import published

SONGS = 1_200_000
"""Of the paper (section 3)."""
SECONDS = 240
"""Of a song: assumed."""
PRIORS = {"2": 5e9, "1": 1e9, "0": 1e9}
"""Parameters by level (section 5.2)."""
PEAK = 312e12
"""Operations a second of an accelerator of 2020 in bfloat16, by its maker: the unit of the plan."""
USED = 0.4
"""Of that, by a training that is arranged well: assumed."""
KEPT = 0.9
"""Of the rate, each time the devices become eight times as many: assumed."""
DEVICES = (8, 64, 512)
CORES = 2
"""Of the machine that was measured."""
MANY_FILES = "MANY_FILES"
"""Where the notes want that table."""
HOUR = 3600
YEAR = 365 * 24


@dataclass(frozen=True)
class Rates:
    """What was measured on one machine."""

    tokenizing: float
    """Seconds of audio a second."""
    bytes_per_code: float
    """In a corpus's shards."""
    training_share: float
    """Of the machine's peak that training reaches."""
    peak_gflops: float


def plan(rates: Rates) -> list[Row]:
    """By level: codes, storage, hours of tokenising, and of one pass over all codes in training."""
    rows: list[Row] = []
    for level, hop in reversed([*enumerate(CODEC.hops)]):
        codes = SONGS * SECONDS * CODEC.sample_rate / hop
        # Six operations for each weight and code: forward, and twice as much back.
        operations = 6 * PRIORS[str(level)] * codes
        hours = {f"hours_{count}": _hours(operations, count) for count in DEVICES}
        here = operations / (rates.training_share * rates.peak_gflops * 1e9) / HOUR
        rows.append({
            "level": str(level),
            "codes": codes,
            "storage_gb": codes * rates.bytes_per_code / 1e9,
            "parameters": PRIORS[str(level)],
            "operations": operations,
            **hours,
            "years_here": here / YEAR,
        })  # fmt: skip
    return rows


def _hours(operations: float, devices: int) -> float:
    """Of a training pass on so many accelerators."""
    doublings = {8: 0, 64: 1, 512: 2}[devices]
    return operations / (PEAK * USED * devices * KEPT**doublings) / HOUR


def tokenizing_hours(rates: Rates) -> float:
    """Of one machine like the one that was measured, all levels."""
    return SONGS * SECONDS / rates.tokenizing / HOUR


def write_page(
    page: Path,
    notes: Path,
    rates: Rates,
    tables: Mapping[str, Sequence[Row]],
    planned: Sequence[Row],
    out: Path,
) -> None:
    """Write the page: the notes, then what was measured and what follows; its figure beside it.

    Args:
        page: Markdown.
        notes: a file that comes first, with the table of `many_files.py` where it says so.
        rates: measured.
        tables: "grown", the exponents, and "rows", the measurements.
        planned: of `plan`.
        out: folder that holds `scale.png`, and `many_files.csv` if that was measured.
    """
    many: Sequence[Row] = [
        {name: float(value) for name, value in row.items()}
        for row in read_rows(out / "many_files.csv")
    ]
    told = "\n".join(_table(many) if many else ["Not measured yet: `benchmarks/many_files.py`."])
    lines = [
        notes.read_text("utf-8").strip().replace(MANY_FILES, told),
        "",
        "## How cost grows",
        "",
    ]
    lines += [
        "`benchmarks/scale.py`, on two cores: tokenising with the published codec, training steps "
        "(two windows of 2048 codes) and sampling one code after another. The exponent is that of "
        "a power law: 1 is linear. Tokenising has a fixed part, which is loading libraries and the "
        "codec.",
        "",
        f"![How cost grows](scaling-{_copied(out / 'scale.png', page)})",
        "",
        *_table(tables["grown"]),
        "",
        *_table(tables["rows"]),
        "",
        "## The paper's corpus",
        "",
        *_assumptions(rates),
        "",
        *_table(planned),
    ]
    with published(page) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8")


def _assumptions(rates: Rates) -> Iterator[str]:
    machines = tokenizing_hours(rates)
    yield (
        f"{SONGS:,} songs of {SECONDS} s (the length is assumed). Measured here: "
        f"{rates.tokenizing:.1f} seconds of audio are tokenised a second on {CORES} cores, a code "
        f"takes {rates.bytes_per_code:.2f} bytes in a shard, and training reaches "
        f"{rates.training_share:.0%} of the machine's {rates.peak_gflops:.0f} GFLOP/s."
    )
    yield ""
    yield (
        f"All levels are tokenised in {machines:,.0f} hours of one such machine: "
        f"{machines / 24 / 64:,.1f} days on 64 of them, since files don't depend on one another."
    )
    yield ""
    yield (
        f"One pass over all codes in training takes 6 operations for each parameter and code "
        f"(forward, and twice as much back; `--recompute` makes it 8). A device of the table makes "
        f"{PEAK / 1e12:.0f} TFLOP/s by its maker's word, of which {USED:.0%} are used (assumed; "
        f"the share measured here is of a CPU in float32), and each time there are eight times as "
        f"many devices {KEPT:.0%} of the rate is kept (assumed). The paper's own trainings took "
        f"more: 512 V100 for four weeks (level 2), 128 for two weeks each (levels 1 and 0)."
    )


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(rows[0])} |"
    yield "|" + "|".join("---" if isinstance(v, str) else "--:" for v in rows[0].values()) + "|"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row.values())} |"


def _cell(value: float | str) -> str:
    if isinstance(value, float) and abs(value) >= 1e6:
        return f"{value:.3g}"
    return value if isinstance(value, str) else number(str(value))


def _copied(figure: Path, page: Path) -> str:
    """The figure beside the page; the end of its name."""
    page.parent.mkdir(parents=True, exist_ok=True)
    with published(page.with_name("scaling-growth.png")) as partial:
        shutil.copyfile(figure, partial)
    return "growth.png"
