"""Sampling over streams: coarsest first, window by window, one prior in memory at a time.

Ancestral, windowed and primed sampling, continuing and upsampling (paper section 4.4) are one
loop; they differ in the codes that are there at the start. It knows codes and Conditions, no
audio. Shapes: B batch, T codes of a window.
"""

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.corpus import Corpus, CorpusWriter
from conditioning.base import Window
from plugins.ground.errors import InputError
from plugins.ground.files import sha256_of
from plugins.ground.progress import Progress
from plugins.ground.saved import WEIGHTS
from prior.checkpoint import load_prior
from prior.config import PriorConfig
from prior.data import reads, stack, window_alignment
from prior.drawing import Drawing
from prior.engine import Engine
from prior.int8 import use_int8
from prior.items import Item
from prior.job import Job
from prior.options import FREE, SamplingOptions
from prior.plan import Step, steps, uniforms, window_hop
from prior.prior import Prior

Draws = Callable[[int, int, int, int], np.ndarray]
"""(item, level, start, stop) -> uniforms in [0, 1) of the codes `[start, stop)`, [stop - start]
float64; level 0 is the finest stream."""


def sample_tokens(
    priors: Sequence[Path | str],
    out: Path | str,
    options: SamplingOptions | None = None,
    draws: Draws | None = None,
) -> Corpus:
    """Sample; goes on where an earlier call with the same arguments stopped.

    Args:
        priors: folders, one for each stream that is to be sampled.
        out: folder for the samples, a token corpus; valid after every window.
        options: what to sample.
        draws: gives the uniforms to draw with instead of those that follow from the seed, so that
            samples can be compared with another implementation's code by code.

    Returns:
        The samples.

    Raises:
        InputError: see `Sampler`.
    """
    sampler = Sampler(priors, out, options or SamplingOptions(), draws)
    progress = Progress(sampler.wanted, "sampling", "codes", sampler.done)
    with sampler.writer.lock, progress as bar:
        for made in sampler.windows():
            bar.advance(made)
    return Corpus(out)


_OWN = set(SamplingOptions.model_fields) - FREE
"""Options that decide what is sampled."""


class Sampler:
    """Samples in the making.

    Raises:
        InputError: see `Job`; or an output folder that holds something else, or that another
            process writes to.
    """

    def __init__(
        self,
        priors: Sequence[Path | str],
        out: Path | str,
        options: SamplingOptions,
        draws: Draws | None = None,
    ) -> None:
        job = Job(priors, options)
        self.options, self.folders, self.spec = options, job.folders, job.spec
        self.device, self.dtype, self.items, self.draws = job.device, job.dtype, job.items, draws
        self.attention_of = job.attention_of
        self.writer = CorpusWriter(out, self.spec, settings=self._settings())
        if len(self.writer):
            self._take_up(Corpus(out))

    def _settings(self) -> dict[str, Any]:
        """Whatever makes these the same samples when the command is given again."""
        settings = SamplingOptions.model_dump(self.options, mode="json", include=_OWN)
        start = hashlib.sha256()
        for item in self.items:
            start.update(b"".join(item.codes[s.name].tobytes() for s in self.spec.streams))
        if self.options.prompts:
            settings["prompts"] = f"{self.options.prompts}, codes {start.hexdigest()[:16]}"
        if self.options.lyrics:
            text = self.items[0].row["lyrics"]
            settings["lyrics"] = f"text {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        words = [item.words for item in self.items]
        if any(words) and any(reads(config, "words") for _, config in self.folders.values()):
            times = hashlib.sha256(json.dumps(words).encode())
            settings["words"] = f"times {times.hexdigest()[:16]}"
        if self.options.dtype == "float32":
            del settings["dtype"]  # as in corpora from before there was a choice
        if not self.options.int8:
            del settings["int8"]
        if self.draws:
            settings["draws"] = "handed in"
        for name, (folder, _) in self._order():
            settings[f"prior of stream {name}"] = sha256_of(folder / WEIGHTS)
        return settings

    @property
    def wanted(self) -> int:
        """Codes that the finished samples have, over the streams that are sampled."""
        return sum(i.wanted(self.spec, name) for i in self.items for name in self.folders)

    @property
    def done(self) -> int:
        """Those that are there."""
        return sum(len(i.codes[name]) for i in self.items for name in self.folders)

    def windows(self) -> Iterator[int]:
        """Sample window by window; gives how many codes each brought, once they are on disk."""
        todo = [(name, folder) for name, (folder, _) in self._order() if any(self._groups(name))]
        for name, folder in todo:
            prior = self._load(folder)
            for group in self._groups(name):
                yield from self._sample_group(prior, group)
            del prior
            gc.collect()
        if not len(self.writer):  # prompts may leave nothing to make
            self._save()

    def _load(self, folder: Path) -> Prior:
        """A prior to sample from; where it can't be had, nothing is left of a job not begun."""
        try:
            prior = load_prior(folder, self.device, self.dtype)
            if self.options.int8:
                use_int8(prior)
            prior.use_attention(self.attention_of(prior.config))
        except InputError:
            self.writer.abandon()
            raise
        return prior

    def _save(self) -> None:
        self.writer.replace([item.as_row() for item in self.items])

    def _order(self) -> list[tuple[str, tuple[Path, PriorConfig]]]:
        """Priors by stream, coarsest first."""
        names = [s.name for s in reversed(self.spec.streams) if s.name in self.folders]
        return [(name, self.folders[name]) for name in names]

    def _groups(self, stream: str) -> Iterator[list[int]]:
        """Items that share their windows, up to a batch of them at a time."""
        alike: dict[tuple[int, int], list[int]] = {}
        for number, item in enumerate(self.items):
            key = (len(item.codes[stream]), item.wanted(self.spec, stream))
            if key[0] < key[1]:
                alike.setdefault(key, []).append(number)
        size = self.options.batch_size
        for numbers in alike.values():
            yield from (numbers[i : i + size] for i in range(0, len(numbers), size))

    def _sample_group(self, prior: Prior, numbers: list[int]) -> Iterator[int]:
        stream, context = prior.config.stream, prior.config.context
        first = self.items[numbers[0]]
        total, done = first.wanted(self.spec, stream), len(first.codes[stream])
        hop = self._hop(prior)
        for step in steps(total, context, hop, done):
            new = self._sample_window(prior, numbers, step)
            for number, codes in zip(numbers, new, strict=True):
                known = self.items[number].codes[stream]
                self.items[number].codes[stream] = np.concatenate([known, codes])
            self._save()
            yield new.size

    def _sample_window(self, prior: Prior, numbers: list[int], step: Step) -> np.ndarray:
        """New codes of one window, [B, stop - known] uint16."""
        options, stream = self.options, prior.config.stream
        items = [self.items[number] for number in numbers]
        batch = stack([self._prepared(prior, item, step.start) for item in items], self.device)
        prompt = np.stack([i.codes[stream][step.start : step.known] for i in items])
        level = [s.name for s in self.spec.streams].index(stream)
        chances = [self._uniforms(number, level, step) for number in numbers]
        length = step.stop - step.start
        with torch.inference_mode():
            condition = prior.condition(batch)
            engine = Engine(prior, condition, len(items), length, options.engine)
            codes = engine.generate(
                torch.from_numpy(prompt.astype(np.int64)).to(self.device),
                length,
                torch.from_numpy(np.stack(chances)),
                Drawing(options.temperature, options.top_k, options.top_p),
            )
        return codes[:, step.known - step.start :].cpu().numpy().astype(np.uint16)

    def _uniforms(self, item: int, level: int, step: Step) -> np.ndarray:
        """What the new codes of a window are drawn with, [stop - known] float64."""
        if self.draws is None:
            return uniforms(self.options.seed, item, level, step.known, step.stop)
        return np.asarray(self.draws(item, level, step.known, step.stop), np.float64)

    def _prepared(self, prior: Prior, item: Item, start: int) -> dict[str, Tensor]:
        return prior.prepare(item.told(), Window(start, item.total(self.spec, self.options)))

    def _hop(self, prior: Prior) -> int:
        """Codes from one window to the next."""
        names = [s.name for s in self.spec.streams]
        place = names.index(prior.config.stream)
        given = self.options.hop_fractions
        fraction = given[place] if given else (0.125 if place == len(names) - 1 else 0.5)
        return window_hop(prior.config.context, fraction, window_alignment(prior.site))

    def _take_up(self, corpus: Corpus) -> None:
        """Go on with the codes of an earlier run, and with words that were aligned since."""
        for number, item in enumerate(self.items):
            item.row["words"] = corpus.metadata(number)["words"]
            item.codes = {s.name: corpus.codes(number, s.name) for s in self.spec.streams}
