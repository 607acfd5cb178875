"""Which pictures a training's figures make, with what they mean in words. It draws nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plugins.report.pictures import Line
from plugins.report.trainings import (
    BITS,
    CONVERGENCE,
    HELD_OUT,
    UNIGRAM,
    Points,
    Training,
    stream_label,
)

SMOOTHED = 25
"""Smoothing takes the mean over this part of all points."""


@dataclass(frozen=True)
class Chart:
    """One picture of curves."""

    title: str
    meaning: str
    unit: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Known:
    """A figure that is worth a picture."""

    title: str
    meaning: str
    unit: str


KNOWN = {
    CONVERGENCE: Known(
        "Spectral convergence",
        "How far the spectrogram of the decoded audio is from the original's, as a share of it. "
        "Lower is better.",
        "share of the original",
    ),
    "codebook_perplexity": Known(
        "Use of the codebook",
        "How many codes are in even use. Higher is better, up to the size of the codebook; a "
        "curve that falls to a few codes has collapsed.",
        "perplexity, in codes",
    ),
}


def charts(run: Training) -> list[Chart]:
    """The pictures of a training: its loss, then what is known of held-out music."""
    found = [*_loss(run)]
    if run.is_prior:
        found.append(_bits(run))
        return found
    held_out, own = run.groups(), run.groups(held_out=False)
    shown = [name for name in KNOWN if name in held_out or name in own]
    # A stranger's codec has figures of its own.
    for name in shown or [name for name in held_out if name != "loss"]:
        known = KNOWN.get(name, Known(name.replace("_", " ").capitalize(), "", ""))
        found.append(_by_stream(known, held_out.get(name), own.get(name, {})))
    return found


def smooth(points: Points) -> Points:
    """Running mean over a `SMOOTHED`th of the points, over what there is of it at the ends."""
    width = 2 * (len(points) // (2 * SMOOTHED)) + 1
    kernel, ones = np.ones(width), np.ones(len(points))
    values = np.convolve([value for _, value in points], kernel, "same")
    counts = np.convolve(ones, kernel, "same")
    means = (values / counts).tolist()
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]


def _loss(run: Training) -> Iterator[Chart]:
    lines = []
    if points := run.series.get("loss"):
        lines += [Line("training", points, faint=True), Line("training, smoothed", smooth(points))]
    if points := run.series.get(f"{HELD_OUT}loss"):
        lines.append(Line("held out", points))
    if lines:
        meaning = "What training makes small. It should fall, fast at first."
        yield Chart("Loss", meaning, "loss", tuple(lines))


def _bits(run: Training) -> Chart:
    lines = []
    if points := run.series.get(BITS):
        lines.append(Line("training, smoothed", smooth(points)))
    if points := run.held_out.get(BITS):
        lines.append(Line("held out", points))
    if points := run.held_out.get(UNIGRAM):
        level = points[-1][1]
        ends = [(min(p[0][0] for p in run.series.values()), level), (run.last_step, level)]
        lines.append(Line("unigram model, held out", ends, dashed=True))
    return Chart(
        "Bits per code",
        "How many bits the prior needs to name the next code. Lower is better; below the dashed "
        "line it has learned more than how often each code occurs.",
        "bits per code",
        tuple(lines),
    )


def _by_stream(known: Known, held_out: dict[str, Points] | None, own: dict[str, Points]) -> Chart:
    """Held-out figures by stream, or those of training where nothing was held out."""
    figures = held_out or {stream: smooth(points) for stream, points in own.items()}
    where = "held out" if held_out else "training, smoothed"
    lines = tuple(
        Line(f"{stream_label(stream)}, {where}", points)
        for stream, points in sorted(figures.items())
    )
    return Chart(known.title, known.meaning, known.unit, lines)
