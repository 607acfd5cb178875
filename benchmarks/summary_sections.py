"""What is wanted of each question, and what the page shows of each script; it reads no tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """What one question is held to."""

    title: str
    ratio: float
    """Ours over the peer's: at least, or at most for memory."""
    aim: float | None = None
    """What would be better still."""
    share: float = 0
    """Of the machine's limit, at least."""
    less: bool = False
    """Less is better."""

    @property
    def wanted(self) -> str:
        """In words."""
        sign = "≤" if self.less else "≥"
        aim = f" (aim {self.aim:g})" if self.aim else ""
        share = f", {self.share:.0%} of the limit" if self.share else ""
        return f"{sign} {self.ratio:g}{aim}{share}"

    def verdict(self, ratio: float, share: float) -> str:
        """Whether that is met."""
        met = ratio <= self.ratio if self.less else ratio >= self.ratio
        if not met:
            return "**no**"
        if share < self.share:
            return "**not the share**"
        return "yes, and the aim" if self.aim and ratio >= self.aim else "yes"


TARGETS = {
    "encode": Target("code audio, all levels", 3.5, 7),
    "decode": Target("decode level 0", 3, 6),
    "large_prior_1": Target("large prior, 1 item", 2.5, share=0.9),
    "large_prior_1_int8": Target("large prior, 1 item, int8 weights", 4),
    "large_prior_8": Target("large prior, 8 items", 3),
    "cache_fill": Target("fill its cache with 4096 codes", 3),
    "teacher_forced": Target("pass over 8192 codes at once", 1.4),
    "tiny_prior": Target("tiny prior, a whole window", 12, 40),
    "training_speed": Target("train, speed", 1),
    "training_memory": Target("train, memory beyond weights and optimiser", 0.6, less=True),
}
"""By question, in the order of the summary."""


@dataclass(frozen=True)
class Section:
    """A script's part of the page."""

    title: str
    text: str
    table: str
    """Its rows, a file name."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns shown and their titles; all if none."""
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rows shown: values that a column may have."""
    figures: tuple[str, ...] = ()

    def shows(self, row: Mapping[str, str]) -> bool:
        """Whether that row is one of them."""
        return all(row.get(name) in values for name, values in self.only.items())


SECTIONS = (
    Section(
        "Beside other models",
        "EnCodec, DAC and the decoder of MusicGen from transformers, shrunk or grown to like size. "
        "They are other models with other rates of codes, so this says what a user waits for, not "
        "who computes better.",
        "peers.csv",
        {
            "question": "question",
            "model": "beside",
            "ours": "ours",
            "peer": "theirs",
            "unit": "unit",
            "ratio": "ours / theirs",
        },
        {
            "question": (
                "encodec_encode",
                "encodec_decode",
                "dac_encode",
                "dac_decode",
                "musicgen_1",
                "musicgen_8",
            )
        },
        ("peers.png",),
    ),
    Section(
        "The machine's limits",
        "The best of several ways (`benchmarks/limits.py`), taken again by each script.",
        "limits.csv",
        figures=("limits.png",),
    ),
    Section(
        "Codec",
        "The published shape on real music (`benchmarks/coding.py`): speed in seconds of audio a "
        "second.",
        "coding.csv",
        figures=("coding.png",),
    ),
    Section(
        "Codec, against the length of the audio",
        "Each length in a process of its own: seconds taken; how far resident memory grew, and its "
        "peak; the peak of PyTorch's allocator, for short audio; and the codes, two bytes each. "
        "`auto` is what users get.",
        "coding_length.csv",
        figures=("coding_length.png",),
    ),
    Section(
        "Sampling",
        "Codes a second of all items together (`benchmarks/sampling.py`), after a short prompt "
        "and after one of half the context; *equal* counts codes that are those of plain float32 "
        "steps. A prior that fits the caches may read faster than memory's limit.",
        "sampling.csv",
        figures=("sampling.png",),
    ),
    Section(
        "What precision costs",
        "Bits per code of a prior that was trained on real music, on tracks held out.",
        "precision.csv",
    ),
    Section(
        "Training",
        "Speed and memory of a step (`benchmarks/training.py`).",
        "training.csv",
        figures=("training.png",),
    ),
    Section(
        "Attention",
        "Every kernel that serves here, by pattern (`benchmarks/attention.py`); the table has one "
        "item of the longest context that `naive` reaches. *Error* is the largest difference from "
        "what `naive` gives.",
        "attention.csv",
        {
            "pattern": "pattern",
            "kernel": "kernel",
            "context": "context",
            "passes": "passes",
            "ms": "ms",
            "over_naive": "/ naive",
            "peak_mib": "peak, MiB",
            "memory_over_naive": "/ naive",
            "error": "error",
        },
        only={"shown": ("yes",)},
        figures=("attention.png",),
    ),
    Section(
        "How cost grows",
        "A forward pass and a training step against context, batch and depth "
        "(`benchmarks/growth.py`).",
        "growth.csv",
        figures=("growth.png",),
    ),
)
"""In the page's order."""
