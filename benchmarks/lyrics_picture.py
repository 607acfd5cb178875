"""The picture of a comparison of aligners: errors by level, and one song's alignment map.

It knows figures, not how they came about.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conditioning.maps import Picture
from plugins.ground.files import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"linear": "#7d828c", "lrc": "#2fa866", "pocketsphinx": "#2f7de1", "attention": "#d0457f"}
OTHERS = ("#e0662f", "#a04fd0", "#c9a21f")
FLOOR = 0.01
"""No error is drawn smaller, in seconds."""


@dataclass(frozen=True)
class Example:
    """One song: onsets of its words in seconds, by the truth, the straight line and an aligner."""

    name: str
    lyrics: str
    truth: Sequence[float]
    line: Sequence[float]
    aligner: str
    found: Sequence[float]
    behind: Picture | None = None


def draw(path: Path, rows: Sequence[Any], example: Example | None) -> None:
    """Publish the picture.

    Args:
        path: of the PNG.
        rows: of `aligner`, `setting` (`voice`, `level`) and `errors`.
        example: a song to show the map of.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    voices = list(dict.fromkeys(row.setting.voice for row in rows))
    panels = len(voices) + (example is not None)
    with style.context("default"), published(path) as partial:
        figure = Figure(figsize=(5.2 * panels, 4.6), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        for one, voice in zip(axes, voices, strict=False):
            _levels(one, voice, [row for row in rows if row.setting.voice == voice])
        if example is not None:
            _map(axes[-1], example)
        figure.savefig(partial, format="png", metadata={"Software": None})


def _levels(axes: "Axes", voice: str, rows: Sequence[Any]) -> None:
    """Errors of each aligner, from the voice alone to the loudest music."""
    levels = sorted({row.setting.level for row in rows}, key=_loudness)
    others = iter(OTHERS * len(rows))
    for aligner in dict.fromkeys(row.aligner for row in rows):
        own = sorted(
            (row for row in rows if row.aligner == aligner),
            key=lambda row: _loudness(row.setting.level),
        )
        places = [levels.index(row.setting.level) for row in own]
        colour = COLOURS.get(aligner) or next(others)
        means = [max(FLOOR, row.errors.mean) for row in own]
        medians = [max(FLOOR, row.errors.median) for row in own]
        axes.plot(places, means, "o-", color=colour, label=aligner, linewidth=2, markersize=5)
        axes.plot(places, medians, ":", color=colour, linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.set_xticks(range(len(levels)), [decibels(level) for level in levels])
    axes.set_xlabel("voice over music")
    axes.set_title(f"{voice}: onset error, mean (line), median (dotted)", fontsize=10)
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False, fontsize=9)


def decibels(level: float | None) -> str:
    """Of a voice over music, in words."""
    return "alone" if level is None else f"{level:+g} dB" if level else "0 dB"


def _loudness(level: float | None) -> float:
    """Of the music, to sort by."""
    return -np.inf if level is None else -level


def _map(axes: "Axes", example: Example) -> None:
    """Onsets over places in the lyrics, with what the aligner went by behind them."""
    places = [word.start() for word in re.finditer(r"\S+", example.lyrics)]
    dark = example.behind is not None
    if example.behind is not None:
        axes.imshow(
            np.sqrt(example.behind.levels.T / 255),
            aspect="auto",
            cmap="magma",
            extent=(0, example.behind.seconds, example.behind.characters, 0),
            interpolation="nearest",
        )
    ink = "white" if dark else "black"
    axes.plot(example.line, places, "--", color=ink, alpha=0.7, linewidth=1, label="straight line")
    if len(example.found):  # none, where it has no answer
        axes.plot(
            example.found,
            places,
            "-",
            color="#5fe3ff" if dark else "#12a5c6",
            linewidth=1.6,
            label=example.aligner,
        )
    axes.plot(
        example.truth,
        places,
        "o",
        color="#7dff9a" if dark else "#2fa866",
        markersize=2.5,
        label="truth",
    )
    axes.set_xlim(0, example.behind.seconds if example.behind else None)
    axes.set_ylim(len(example.lyrics), 0)
    axes.set_ylabel("place in the lyrics, characters")
    axes.set_xlabel("seconds")
    axes.set_title(f"{example.name}: where its words are", fontsize=10)
    legend = axes.legend(frameon=dark, fontsize=8, facecolor="#14151c", labelcolor=ink)
    legend.set_zorder(5)
