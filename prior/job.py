"""What is to be sampled with which priors: checked, and its cost said, before anything is written.

It knows configs, labels and codes that are there; it samples nothing.
"""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from codec.tokens import TokenSpec
from conditioning.base import Conditioner, LyricsReader, Window
from plugins import registry
from plugins.ground.device import pick_device, pick_dtype
from plugins.ground.errors import InputError
from prior.attention.kernels import AUTO
from prior.checkpoint import read_config
from prior.config import PriorConfig
from prior.engine import Engine
from prior.int8 import use_int8
from prior.items import make_items
from prior.options import SamplingOptions
from prior.prior import Prior, build_conditioners, check_attention
from prior.steps.choosing import pick_steps


class Job:
    """A checked job.

    Raises:
        InputError: priors of different codecs or of one stream twice, labels that are unknown or
            that no prior reads, prompts that don't fit, a stream that can't be made for want of
            the one above, or a device, precision, engine or attention kernel that can't serve.
    """

    def __init__(self, priors: Sequence[Path | str], options: SamplingOptions) -> None:
        self.options = options
        self.folders = _by_stream(priors)
        self.spec = next(iter(self.folders.values()))[1].spec
        self.device = pick_device(options.device)
        self.dtype = pick_dtype(options.dtype, self.device)
        self.items = make_items(self.spec, options)
        self._check_streams()
        self._check_labels()
        for _, config in self.folders.values():
            name = self.attention_of(config)
            check_attention(name, config, self.device, self.dtype, grad=False)
            pick_steps(options.engine, config, self.device, self.dtype)

    def attention_of(self, config: PriorConfig) -> str:
        """How one of several priors attends: one name rarely fits both those that own their
        attention and those that don't, so it goes to those that it fits.
        """
        name = self.options.attention
        configs = [other for _, other in self.folders.values()]
        owners = {other.attention.name for other in configs if other.attention}

        def fits(other: PriorConfig) -> bool:
            return other.attention.name == name if other.attention else name not in owners

        return AUTO if any(map(fits, configs)) and not fits(config) else name

    def _check_streams(self) -> None:
        """Every stream needs the one above it, whole."""
        options, names = self.options, [s.name for s in self.spec.streams]
        if options.hop_fractions and len(options.hop_fractions) != len(names):
            raise InputError(f"--hop-fractions needs {len(names)} numbers, finest stream first")
        if any(not 0 < fraction <= 1 for fraction in options.hop_fractions):
            raise InputError("--hop-fractions must be above 0 and at most 1")
        for name in self.folders:
            above = names[names.index(name) + 1 :][:1]
            for upper in above:
                for item in self.items:
                    have, need = len(item.codes[upper]), item.wanted(self.spec, upper)
                    if upper not in self.folders and have < need:
                        raise InputError(
                            f"{item.row['id']} has {have} of {need} codes of stream {upper!r}, "
                            f"which stream {name!r} needs: give the prior of {upper!r} too"
                        )

    def _check_labels(self) -> None:
        """Labels that a person typed must be read by some prior and known to the coarsest one.

        The others may have been trained on other names, as the published ones were: they take
        what they lack for unknown.
        """
        typed = self._typed()
        read: set[str] = set()
        names = [s.name for s in reversed(self.spec.streams) if s.name in self.folders]
        for name in names:
            folder, config = self.folders[name]
            with torch.device("meta"):
                parts = [cast(Conditioner, part) for part in build_conditioners(config).values()]
            for part in parts:
                read |= set(typed) if part.reads is None else set(part.reads)
            try:
                for part, item in itertools.product(parts, self.items):
                    with registry.blaming(type(part), "read these labels"):
                        part.check({label: item.row[label] for label in typed})
            except InputError as error:
                told = isinstance(part, LyricsReader) and self.options.lyrics
                reason = f"{self.options.lyrics}: {error}" if told else str(error)
                if name == names[0]:
                    raise InputError(reason) from error
                warnings.warn(f"{folder} counts it as unknown: {reason}", stacklevel=2)
            self._warn_of_rush(name, parts)
        if unread := sorted(set(typed) - read):
            raise InputError(
                f"no prior that is to be sampled reads {' or '.join(unread)}: leave that label out"
            )

    def _warn_of_rush(self, stream: str, parts: Sequence[Conditioner]) -> None:
        """Say so where lyrics that a person gave go by too fast for all of them to be seen.

        Windows move with the music, so lyrics may be longer than any. But if already the first
        one begins inside of them, each has more to sing than it sees.
        """
        item = self.items[0]
        if not self.options.lyrics or item.row["prompt_samples"]:
            return
        total = item.total(self.spec, self.options)
        for reader in (part for part in parts if isinstance(part, LyricsReader)):
            with registry.blaming(type(reader), "read these lyrics"):
                excerpt = reader.excerpt(item.told(), Window(0, total))
            if (missed := excerpt.indices[0]) > 0:
                length, seen = len(excerpt.sources), len(excerpt.indices)
                warnings.warn(
                    f"{self.options.lyrics} is too much text for {total / self.spec.sample_rate:g} "
                    f"s: the prior of stream {stream!r} sees {seen / length:.0%} of it at a time, "
                    f"and never its first {missed / length:.0%}; give less, or the length of the "
                    "whole song as --total-seconds",
                    stacklevel=2,
                )

    def _typed(self) -> list[str]:
        """The labels that a person typed."""
        options = self.options
        own = {"artist": options.artist, "genre": options.genre, "lyrics": options.lyrics}
        return [*(name for name, given in own.items() if given), *options.label]


def sampling_cost(priors: Sequence[Path | str], options: SamplingOptions) -> dict[str, str]:
    """What a dry run says: parameters and memory of the largest prior, codes to make, disk.

    Raises:
        InputError: see `Job`.
    """
    job = Job(priors, options)
    folders, spec, items = job.folders, job.spec, job.items
    cost: dict[str, Any] = {}
    total = 0
    for name, (_, config) in folders.items():
        with torch.device("meta"):
            prior = Prior(config).to(job.dtype)
        parameters = sum(p.numel() for p in prior.parameters())
        if options.int8:
            use_int8(prior)
        weights = sum(t.nbytes for t in (*prior.parameters(), *prior.buffers()))
        length = min(config.context, max(item.wanted(spec, name) for item in items))
        engine = Engine(prior, batch=min(options.batch_size, len(items)), length=length)
        cache = sum(cache.nbytes for cache in engine.caches)
        codes = sum(i.wanted(spec, name) - len(i.codes[name]) for i in items)
        total += sum(i.wanted(spec, name) for i in items)
        cost[f"stream {name}"] = (
            f"{parameters:,} parameters, {weights / 2**20:,.0f} MiB of weights and "
            f"{cache / 2**20:,.0f} MiB of caches (one prior at a time), {codes:,} codes to make"
        )
    cost["disk"] = f"{2 * total / 2**20:,.2f} MiB of codes"
    return cost


def _by_stream(priors: Sequence[Path | str]) -> dict[str, tuple[Path, PriorConfig]]:
    found: dict[str, tuple[Path, PriorConfig]] = {}
    first: TokenSpec | None = None
    for folder in map(Path, priors):
        config = read_config(folder)
        first = first or config.spec
        first.require(config.spec, str(priors[0]), str(folder))
        if config.stream in found:
            raise InputError(
                f"{folder} and {found[config.stream][0]} both model stream {config.stream!r}"
            )
        found[config.stream] = (folder, config)
    if not found:
        raise InputError("give at least one prior")
    return found
