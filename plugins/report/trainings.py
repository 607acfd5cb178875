"""What a training left behind: its figures by step, and what they say in words.

It knows `metrics.jsonl`, not how a page or a picture is made.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plugins.ground.errors import InputError
from plugins.ground.files import read_json

METRICS, SETTINGS = "metrics.jsonl", "training.json"
HELD_OUT = "validation/"
BITS, UNIGRAM = "bits_per_code", "unigram_bits_per_code"
CONVERGENCE = "spectral_convergence"
OVERFIT = 0.01
"""A held-out figure this much above its lowest is worth a word."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Training:
    """Figures of one training."""

    name: str
    folder: Path
    series: Mapping[str, Points]
    """(step, value) by figure; held-out figures begin with `HELD_OUT`."""
    settings: Mapping[str, str]
    """What it was started with, flat."""

    @property
    def last_step(self) -> int:
        """The last step that there is a figure of."""
        return int(max((points[-1][0] for points in self.series.values()), default=0))

    @cached_property
    def held_out(self) -> dict[str, Points]:
        """Figures on music that was not trained on, without the prefix."""
        found = self.series.items()
        return {n.removeprefix(HELD_OUT): p for n, p in found if n.startswith(HELD_OUT)}

    @property
    def is_prior(self) -> bool:
        """Whether it counts bits per code, as priors do."""
        return BITS in self.series or BITS in self.held_out

    @property
    def beats_unigram(self) -> bool | None:
        """Whether the prior's last held-out bits per code are below a unigram model's."""
        if BITS not in self.held_out or UNIGRAM not in self.held_out:
            return None
        return self.held_out[BITS][-1][1] < self.held_out[UNIGRAM][-1][1]

    def groups(self, held_out: bool = True) -> dict[str, dict[str, Points]]:
        """Figures "<figure>/<stream>" by figure, then stream ("" where none is named)."""
        grouped: dict[str, dict[str, Points]] = {}
        own = {n: p for n, p in self.series.items() if not n.startswith(HELD_OUT)}
        for name, points in (self.held_out if held_out else own).items():
            figure, _, stream = name.partition("/")
            grouped.setdefault(figure, {})[stream] = points
        return grouped


def read_training(name: str, folder: Path | str) -> Training:
    """Read the figures of a training.

    Args:
        name: to show.
        folder: that the training wrote to.

    Raises:
        InputError: it is no such folder, or its figures are malformed (names the line).
    """
    folder = Path(folder)
    path = folder / METRICS
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise InputError(
            f"training {name!r}: can't read {path}: {why}; give the --out folder of a training"
        ) from error
    series: dict[str, Points] = {}
    for number, line in enumerate(lines, 1):
        try:
            step, figures = _figures(line)
        except (ValueError, KeyError, AttributeError) as error:
            # A training that runs, or was killed, may leave half a line at the end.
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: no JSON object with a step") from error
        for figure, value in figures.items():
            series.setdefault(figure, []).append((step, value))
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    return Training(name, folder, series, dict(_flat(settings)))


def summary(training: Training) -> str:
    """What was trained and for how long, in a sentence."""
    length = f"trained for {training.last_step:,} steps"
    if training.is_prior:
        return f"A prior, which predicts each code from those before it, {length}."
    if any(name.startswith(CONVERGENCE) for name in training.series):
        return f"A codec, which turns audio into codes and back, {length}."
    return f"A model {length}."


def verdict(training: Training) -> str:
    """What the last held-out figures say, in a sentence or three."""
    if not training.series:
        return "There are no figures yet: the training has only begun."
    if not training.held_out:
        return (
            "Nothing was held out, so these figures only tell how well the model fits the music "
            "that it was trained on, not how it does on other music."
        )
    if training.is_prior:
        return _verdict_on_prior(training)
    convergence = training.groups().get(CONVERGENCE, {})
    if convergence:
        parts = [
            f"{points[-1][1]:.3f} ({decibels(points[-1][1])}) from {stream_label(stream)}"
            for stream, points in sorted(convergence.items())
        ]
        return (
            "On held-out music, the spectrogram of the decoded audio is off by this share of the "
            f"original's: {', '.join(parts)}. 0 is perfect, 1 is as far off as silence."
        )
    return "Held-out figures are below."


def _verdict_on_prior(training: Training) -> str:
    held_out = training.held_out
    if BITS not in held_out:
        return "There are held-out figures, but no bits per code among them."
    bits = held_out[BITS][-1][1]
    said = f"On held-out music the prior needs {bits:.3f} bits per code"
    if UNIGRAM in held_out:
        unigram = held_out[UNIGRAM][-1][1]
        if training.beats_unigram:
            said += (
                f", {unigram - bits:.3f} below the {unigram:.3f} of a unigram model, which knows "
                "only how often each code occurs: the prior has learned which codes follow which."
            )
        else:
            said += (
                f", not below the {unigram:.3f} of a unigram model, which knows only how often "
                "each code occurs: the prior has not yet learned which codes follow which."
            )
    else:
        said += "; there is no unigram model to compare it with."
    step, lowest = min(held_out[BITS], key=lambda point: point[1])
    if bits > lowest * (1 + OVERFIT):
        said += f" It was lowest at step {step:g}, with {lowest:.3f}: it may be overfitting."
    return said


def decibels(ratio: float) -> str:
    """20 log10 of a ratio of amplitudes, with its unit."""
    return f"{20 * math.log10(max(ratio, 1e-10)):.1f} dB".replace("-", "\N{MINUS SIGN}")


def stream_label(stream: str) -> str:
    """A stream's name for people."""
    return f"stream {stream}" if stream else "the codec"


def _figures(line: str) -> tuple[float, dict[str, float]]:
    """Step and finite figures of a line; what is no number is left out."""
    content = dict(json.loads(line).items())
    step = float(content.pop("step"))
    numbers = {
        name: float(value)
        for name, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return step, numbers


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as "a.b" and text; long values are cut."""
    if isinstance(content, dict) and content:
        return [p for name, value in content.items() for p in _flat(value, f"{prefix}{name}.")]
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return [(prefix.rstrip("."), text if len(text) <= 200 else text[:199] + "…")] if prefix else []
