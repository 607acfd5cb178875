"""Pictures of audio and of learning curves, as PNG files. It knows no page and no corpus.

Shapes: T samples, F frequencies of a transform, R rows of a picture, M frames.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plugins.ground.errors import InputError
from plugins.ground.files import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_SECONDS = 0.046
"""Length of the Hann window, rounded to a power of two in samples."""
ROWS, COLUMNS = 200, 900
AUDIO_SIZE, CURVES_SIZE = (960, 435), (900, 480)
"""Width and height of the pictures, in pixels; two for each that most pages give them."""
DPI = 150
MATPLOTLIB = "pictures need matplotlib: pip install 'jukebox-toolkit[report]'"
FRAMES = 256
"""Frames that are transformed at a time."""

INK, PANEL, MARK = "#b9bdc9", "#14151c", "#5fe3ff"
"""Pictures of audio are a dark screen on light and dark pages alike."""
COLOURS = ("#2f7de1", "#e0662f", "#2fa866", "#a04fd0", "#c9a21f", "#d0457f")


@dataclass(frozen=True)
class Scale:
    """What makes the spectrograms of a page comparable."""

    top: float
    """Highest frequency, in hertz."""
    floor: float = -75.0
    """Level that is black, in decibels above a sine of full scale."""
    ceiling: float = -5.0
    """Level that is brightest."""


@dataclass(frozen=True)
class Line:
    """One line of a learning curve."""

    label: str
    points: Sequence[tuple[float, float]]  # (step, value)
    faint: bool = False
    dashed: bool = False


def spectrogram(audio: np.ndarray, sample_rate: int, scale: Scale) -> np.ndarray:
    """Levels over time and mel frequency.

    Args:
        audio: mono, float32 [T].
        sample_rate: of the audio, in hertz.
        scale: of the page.

    Returns:
        float32 [R, M], in decibels above a sine of full scale, lowest frequency first; rows above
        half the sample rate hold the floor.
    """
    size = max(2, 1 << round(np.log2(WINDOW_SECONDS * sample_rate)))
    hop = max(1, min(size // 2, len(audio) // COLUMNS))
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    window *= 2 / window.sum()
    padded = np.pad(audio.astype(np.float32, copy=False), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    bands = _bands(size // 2 + 1, sample_rate, scale)
    power = np.empty((ROWS, len(frames)), np.float32)
    for first in range(0, len(frames), FRAMES):
        spectrum = np.fft.rfft(frames[first : first + FRAMES] * window).astype(np.complex64)
        power[:, first : first + FRAMES] = bands @ (spectrum.real**2 + spectrum.imag**2).T
    power = _columns(power)
    return 10 * np.log10(np.maximum(power, 10 ** (scale.floor / 10)))


def draw_audio(
    path: Path,
    audio: np.ndarray,
    sample_rate: int,
    scale: Scale,
    seconds: float,
    prompt_seconds: float = 0.0,
) -> None:
    """Publish a picture of a recording: waveform above spectrogram.

    Args:
        path: of the PNG.
        audio: mono, float32 [T], not empty.
        sample_rate: of the audio, in hertz.
        scale: of the page.
        seconds: width of the picture, so that recordings side by side can share it.
        prompt_seconds: where a vertical line marks the end of a prompt; 0: nowhere.

    Raises:
        InputError: matplotlib is not installed, or the picture can't be written.
    """
    with _picture(path, AUDIO_SIZE, PANEL) as figure:
        wave, image = figure.subplots(
            2, 1, sharex=True, height_ratios=(1, 4), gridspec_kw={"hspace": 0.06}
        )
        figure.subplots_adjust(left=0.095, right=0.96, top=0.97, bottom=0.105)
        for axes in (wave, image):
            _dress(axes, INK)
            axes.set_facecolor("black")
            if 0 < prompt_seconds < seconds:
                axes.axvline(prompt_seconds, color=MARK, linewidth=1.6, linestyle=(0, (4, 2)))
        low, high = _envelope(audio)
        times = np.linspace(0, len(audio) / sample_rate, len(low))
        wave.fill_between(times, low, high, color="#c8a2f0", linewidth=0.4)
        wave.set(ylim=(-1.05, 1.05), yticks=[])
        wave.tick_params(bottom=False)
        levels = spectrogram(audio, sample_rate, scale)
        _show_levels(image, levels, len(audio) / sample_rate, scale)
        image.set_xlim(0, seconds)


def draw_curves(path: Path, lines: Sequence[Line], unit: str, dark: bool) -> None:
    """Publish a picture of lines over training steps.

    Args:
        path: of the PNG.
        lines: those without points are left out.
        unit: what the vertical axis counts.
        dark: for a page with a dark background.

    Raises:
        InputError: matplotlib is not installed, or the picture can't be written.
    """
    ink = "#a9afbc" if dark else "#4c5260"
    with _picture(path, CURVES_SIZE, "none") as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.125, right=0.97, top=0.95, bottom=0.16)
        _dress(axes, ink)
        axes.set_facecolor("none")
        axes.grid(color=ink, alpha=0.2, linewidth=0.8)
        colours = iter(COLOURS * len(lines))
        for line in lines:
            colour = ink if line.dashed or line.faint else next(colours)
            _draw_line(axes, line, colour)
        axes.set_xlabel("training step", color=ink, fontsize=9)
        axes.set_ylabel(unit, color=ink, fontsize=9)
        axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False, fontsize=9, labelcolor=ink)


def draw_map(path: Path, levels: np.ndarray) -> None:
    """Publish levels as a picture without margins, a pixel each.

    Args:
        path: of the PNG.
        levels: [R, M] uint8, top row first; 255 is brightest.

    Raises:
        InputError: matplotlib is not installed, or the picture can't be written.
    """
    try:
        from matplotlib import colormaps
        from PIL import Image
    except ImportError as error:
        raise InputError(MATPLOTLIB) from error
    # Weak attention is most of it; under a straight scale it would be black.
    colours = colormaps["magma"](np.sqrt(np.linspace(0, 1, 256)), bytes=True)[:, :3]
    picture = Image.fromarray(levels)
    picture.putpalette(colours.tobytes())
    with published(path) as partial:
        picture.save(partial, optimize=True)


def _draw_line(axes: "Axes", line: Line, colour: str) -> None:
    steps = [step for step, _ in line.points]
    values = [value for _, value in line.points]
    axes.plot(
        steps,
        values,
        color=colour,
        alpha=0.45 if line.faint else 1.0,
        linewidth=1.0 if line.faint else 2.0,
        linestyle="--" if line.dashed else "-",
        marker="o" if len(steps) <= 40 and not (line.faint or line.dashed) else None,
        markersize=3.5,
        # matplotlib reads dollars as mathematics and hides labels that begin with "_".
        label=line.label.replace("$", r"\$"),
    )


def _show_levels(axes: "Axes", levels: np.ndarray, seconds: float, scale: Scale) -> None:
    axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=scale.floor,
        vmax=scale.ceiling,
        extent=(0, seconds, 0, 1),
        interpolation="bilinear",
    )
    ticks = [f for f in (0, 200, 500, 1000, 2000, 4000, 8000, 16000) if f < 0.97 * scale.top]
    heights = _mel(np.array(ticks)) / _mel(scale.top)
    axes.set_yticks(heights, [f"{f} Hz" if f < 1000 else f"{f // 1000} kHz" for f in ticks])
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")


def _bands(count: int, sample_rate: int, scale: Scale) -> np.ndarray:
    """Weights [R, F] of a transform's powers in each row: triangles about its frequency."""
    centres = _hertz(np.linspace(0, _mel(scale.top), ROWS))
    spacing = sample_rate / 2 / (count - 1)
    width = np.maximum(np.gradient(centres), spacing)
    distance = np.abs(np.arange(count) * spacing - centres[:, None])
    # Not divided by their sum, so that a sine keeps its level wherever it is.
    return np.maximum(0, 1 - distance / width[:, None]).astype(np.float32)


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    """The mel scale (O'Shaughnessy 1987)."""
    return 2595 * np.log10(1 + np.asarray(hertz, float) / 700)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _columns(power: np.ndarray) -> np.ndarray:
    """Mean powers of neighbouring frames [R, M], where there are more than a picture can show."""
    group = -(-power.shape[1] // (2 * COLUMNS))
    if group == 1:
        return power
    edges = np.arange(0, power.shape[1], group)
    counts = np.diff(np.append(edges, power.shape[1]))
    return np.add.reduceat(power, edges, axis=1) / counts


def _envelope(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sample of each column of a picture."""
    edges = np.unique(np.linspace(0, len(audio), COLUMNS, endpoint=False).astype(int))
    return np.minimum.reduceat(audio, edges), np.maximum.reduceat(audio, edges)


def _dress(axes: "Axes", ink: str) -> None:
    axes.tick_params(colors=ink, labelsize=9, length=3)
    for spine in axes.spines.values():
        spine.set(color=ink, alpha=0.35)


@contextlib.contextmanager
def _picture(path: Path, size: tuple[int, int], background: str) -> "Iterator[Figure]":
    """A figure to draw on, which is published in the end; `size` in pixels."""
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(MATPLOTLIB) from error
    # A person's own style file must not change the page.
    with style.context("default"), published(path) as partial:
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor=background)
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(
            partial,
            format="png",
            facecolor=background,
            metadata={"Software": None},
            pil_kwargs={"compress_level": 4},
        )
