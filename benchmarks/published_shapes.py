"""Does a model of the published size fit: how much memory do converting and sampling need?

`python benchmarks/published_shapes.py [--dtype float32] [--models 1b_lyrics,upsampler_1]` makes a
checkpoint of random weights in each published shape, as `torch.save` and the published names have
it, then does with it what a user would, each step as a process of its own: convert it and the
codec, load it and sample codes (with artist, genre and lyrics; upsamplers from codes above). It
prints seconds and peak memory of each step, and ends with status 1 if one needs more than 1.15
times its weights and 0.5 GiB. Weights of a conversion are those of the checkpoint, as they are
stored; of sampling, in the precision that was chosen.

A model of a billion parameters takes a minute or two, 4.5 GiB of memory and 8 of disk; a 5b model
ten minutes, 12 GiB and 22 with `--half --dtype bfloat16`. Memory is the peak of resident pages
that the system reports, files mapped among them. Few CPUs convolve in float16: an upsampler takes
many minutes there before its first code.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field
from rich.console import Console
from rich.table import Table

from plugins.ground.command import Command
from plugins.ground.errors import InputError

# Nothing heavy above: on Linux a process that is started counts the memory of its parent as its
# own peak. What needs torch runs in a process apart.

FACTOR, ALLOWANCE = 1.15, 0.5
"""Of the weights, and GiB besides."""
HOPS = (8, 32, 128)
RATE = 44100
GIB = 1 << 30
ARTIST, GENRE = 37, 5
LYRICS = "We count the pages while they fill,\nand none of them is standing still.\n"

Shape = Literal["1b_lyrics", "5b", "5b_lyrics", "upsampler_1", "upsampler_0"]
Precision = Literal["float32", "bfloat16", "float16"]
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """What a step took."""

    name: str
    seconds: float
    weights: float
    """GiB."""
    peak: float
    """GiB."""

    @property
    def limit(self) -> float:
        """GiB."""
        return FACTOR * self.weights + ALLOWANCE


class PublishedShapes(Command):
    """Memory and time of converting and sampling models of the published shapes."""

    models: list[Shape] = Field(
        ["1b_lyrics", "upsampler_1", "upsampler_0"], description="which shapes"
    )
    dtype: Precision = Field("float32", description="precision to sample in")
    half: bool = Field(
        False, description="checkpoints hold dense layers in half precision, as those of 5b do"
    )
    tokens: int = Field(16, ge=16, multiple_of=16, description="codes to sample")
    folder: Path | None = Field(None, description="where files go, removed at the end (temporary)")

    def cli_cmd(self) -> None:
        """Measure and print; status 1 if a step needs more than it may.

        Raises:
            InputError: a step fails, or the disk is too small.
        """
        steps: list[Step] = []
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        for shape in self.models:
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{shape}-") as work:
                steps += self._steps(shape, Path(work))
        table = Table("step", "seconds", "weights GiB", "peak GiB", "limit GiB", "verdict")
        for step in steps:
            numbers = (step.seconds, step.weights, step.peak, step.limit)
            verdict = "fits" if step.peak <= step.limit else "TOO MUCH"
            table.add_row(step.name, *(f"{number:.2f}" for number in numbers), verdict)
        Console().print(table)
        sys.exit(any(step.peak > step.limit for step in steps))

    def _steps(self, shape: Shape, work: Path) -> Iterator[Step]:
        top, level = (shape, 2) if not shape.startswith("upsampler") else ("5b", int(shape[-1]))
        checkpoints = [work / "vqvae.pth.tar", work / f"prior_level_{level}.pth.tar"]
        parameters = _apart(make_checkpoints, checkpoints, top, level, self.half)
        stored = sum(path.stat().st_size for path in checkpoints) / GIB
        model = work / "model"
        converting = ["plugins.openai.convert", *checkpoints, "--out", model, "--model", top]
        yield _measured(f"convert {shape}", stored, converting)
        for path in checkpoints:
            path.unlink()
        wanted = parameters * (4 if self.dtype == "float32" else 2) / GIB
        samples = work / "samples"
        sampling = ["prior.sample", "--model", model, "--out", samples, "--dtype", self.dtype]
        sampling += ["--streams", str(level), *self._told(shape, level, model)]
        yield _measured(f"sample {self.tokens} codes, {shape}, {self.dtype}", wanted, sampling)
        found = _apart(count_codes, samples, str(level))
        if found != self.tokens:
            raise InputError(f"{shape} sampled {found} codes instead of {self.tokens}")

    def _told(self, shape: Shape, level: int, model: Path) -> list[Any]:
        """Options of sampling: what the music is like, how long it is, what it goes on from."""
        kept = json.loads((model / f"prior_{level}" / "config.json").read_text("utf-8"))
        names = {c["name"]: c["config"].get("names") for c in kept["conditioners"]}
        told = ["--artist", names["artist"][ARTIST - 1], "--genre", names["genre"][GENRE - 1]]
        if shape.endswith("lyrics"):
            lyrics = model.with_name("lyrics.txt")
            lyrics.write_text(LYRICS, "utf-8")
            told += ["--lyrics", lyrics]
        if level == len(HOPS) - 1:
            return [*told, "--seconds", self.tokens * HOPS[level] / RATE]
        prompts = model.with_name("prompts")
        _apart(make_prompts, model, prompts, level, self.tokens)
        return [*told, "--seconds", 0, "--prompts", prompts]


def _measured(name: str, weights: float, command: Sequence[Any]) -> Step:
    """Run a command of this toolkit."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *map(str, command)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise InputError(f"{name} failed: see above")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * unit / GIB
    return Step(name, time.perf_counter() - started, weights, peak)


def _apart(work: Callable[..., T], *arguments: Any) -> T:
    """Call in a process of its own, whose memory goes with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def make_checkpoints(paths: Sequence[Path], top: str, level: int, half: bool) -> int:
    """Write a codec and a prior of random weights in the published format.

    Args:
        paths: of both.
        top: the published model that the prior belongs to.
        level: the prior's.
        half: store dense layers in half precision.

    Returns:
        How many parameters the prior has.

    Raises:
        InputError: the disk is too small for them and for what they are converted to.
    """
    import torch

    from codec.config import PRESETS, VQVAEConfig
    from codec.vqvae import token_spec
    from plugins.openai.models import Model
    from plugins.openai.names import Layout, layout_of
    from plugins.openai.torchfile import Checkpoint
    from plugins.openai.vocabulary import Vocabularies

    codec = VQVAEConfig.model_validate(PRESETS["jukebox"])
    random = torch.Generator().manual_seed(0)

    def save(path: Path, layout: Layout) -> int:
        weights = {}
        for source in layout.sources.values():
            weights[source.name] = 0.02 * torch.randn(source.shape, generator=random)
            if half and source.name.endswith(".w"):
                weights[source.name] = weights[source.name].half()
        parameters = sum(tensor.numel() for tensor in weights.values())
        needed = 2 * sum(tensor.nbytes for tensor in weights.values())
        if shutil.disk_usage(path.parent).free < needed:
            raise InputError(f"{path.parent} has no room for {needed / GIB:.1f} GiB: give --folder")
        for ours, twin in layout.twins.items():
            weights[twin.name] = weights[layout.sources[ours].name]
        torch.save({"model": weights, "step": 0, "hps": {}, "opt": None}, path)
        return parameters

    save(paths[0], layout_of(codec))
    # A checkpoint that says nothing of itself is what the model of that name has.
    config = Model(top, Vocabularies()).prior(Checkpoint(paths[0]), token_spec(codec), level)
    return save(paths[1], layout_of(config))


def make_prompts(model: Path, folder: Path, level: int, tokens: int) -> None:
    """A token corpus of one track, whose coarser levels await `tokens` codes of `level`."""
    import numpy as np

    from codec.checkpoint import read_spec
    from codec.corpus import CorpusWriter

    samples = tokens * HOPS[level]
    random = np.random.default_rng(0)
    codes = {
        f"codes_{upper}": random.integers(2048, size=samples // HOPS[upper], dtype=np.uint16)
        for upper in range(level + 1, len(HOPS))
    }
    writer = CorpusWriter(folder, read_spec(model / "codec"))
    writer.append([{"id": "track", "num_samples": samples, **codes}])


def count_codes(folder: Path, stream: str) -> int:
    """Codes of the first track of a corpus."""
    from codec.corpus import Corpus

    return len(Corpus(folder).codes(0, stream))


if __name__ == "__main__":
    PublishedShapes.main()
