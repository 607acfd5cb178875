"""The training loop: AdamW, warm-up, accumulation, clipping, weight averages, exact resumption.

It knows neither audio nor codes: a `Task` brings module, items and loss; nor how processes share
the work, which is `plugins.ground.processes`'s. Everything random in a step is a function of (seed,
step, process), so a resumed run needs no generator's state and ends with the same bytes as an
undisturbed one.
"""

import contextlib
import json
import math
import os
import signal
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from plugins.ground.average import Average
from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.files import FolderLock, claim_folder, published, read_json, write_json
from plugins.ground.loading import Batch, batches_of
from plugins.ground.options import FREE, TrainingOptions
from plugins.ground.processes import Team, load_parts, part_of
from plugins.ground.progress import Progress

RUN, STATE, METRICS = "training.json", "state.pt", "metrics.jsonl"


class Task(ABC):
    """What is trained, on what."""

    module: nn.Module

    def prepare(self) -> None:
        """Look at the data, once: before the first step of a run that is not resumed."""
        return

    def blocks(self) -> Iterable[nn.Module]:
        """Parts of the module to be put together one at a time where processes hold parts."""
        return ()

    def count(self, batch: Batch) -> Tensor | None:
        """How much a mean over this batch divides by, [] float; None: batches all count the same.

        Passes and processes may see parts of one batch that count differently; each is then given
        the mean over all of them as "count", so that their losses have the whole batch's mean.
        """
        return None

    @abstractmethod
    def item(self, index: int) -> Mapping[str, Tensor]:
        """Training item `index`, a function of it and the seed alone; without batch axis."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and named scalar figures of a batch."""

    @abstractmethod
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Figures on held-out data; {} if there is none."""

    @abstractmethod
    def save(self, module: nn.Module, folder: Path) -> None:
        """Publish a model folder for use."""


class _Step(nn.Module):
    """The loss as a forward pass, which is what wrappers for several processes hook into."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.module = task.module
        self._loss = task.loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss(self.module, batch)


def train(task: Task, options: TrainingOptions, out: Path, settings: Mapping[str, Any]) -> None:
    """Train until `options.steps`, going on from the last state in `out` if there is one.

    Args:
        task: its module is trained in place.
        options: how.
        out: folder for the model (moving average of the weights), `state.pt`, `metrics.jsonl`
            and tensorboard events.
        settings: JSON of everything that makes this the same training when it is resumed.

    Raises:
        InputError: `out` holds something else or another training, or another process writes to
            it; the batch can't be split; the loss is no longer finite; another process of this
            training is gone.
    """
    team = Team(options, out)
    if options.batch_size % (options.accumulate * team.size):
        raise InputError(
            f"--batch-size {options.batch_size} can't be split into {options.accumulate} passes "
            f"on {team.size} processes"
        )
    # The first process alone writes, so it alone keeps others out.
    with team.reporting_losses(), FolderLock(out) if team.main else contextlib.nullcontext():
        with team.accelerator.main_process_first():
            if team.main:
                _claim(out, settings)
        run = _Run(task, options, out, team)
        run.resume()
        if run.step < options.steps:
            team.accelerator.init_trackers("tensorboard")
            run.go()
            team.accelerator.end_training()
        else:
            run.publish()  # whatever has become of the model's files


class _Run:
    """One training in progress: module, average, optimiser, step."""

    def __init__(self, task: Task, options: TrainingOptions, out: Path, team: Team) -> None:
        self.task, self.options, self.out, self.team = task, options, out, team
        self.step = 0
        task.module.to(team.device)
        whole = _Step(task)
        team.shard(whole, task.module, task.blocks())
        self.average = Average(task.module)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(task.module, options.weight_decay),
            lr=options.learning_rate,
            betas=(0.9, options.beta2),
            fused=True,
        )
        self.stepper = team.wrap(whole)

    def go(self) -> None:
        options = self.options
        batches = batches_of(
            self.task.item,
            (self.step, options.steps),
            options.batch_size,
            options.accumulate,
            options.workers,
            (self.team.rank, self.team.size),
        )
        with _stop_signal() as stop, self._progress() as bar:
            while self.step < options.steps:
                figures = self._one_step(batches)
                self.step += 1
                last = self.step == options.steps
                shown: dict[str, float] = {}
                stopping = self.team.size == 1 and stop()
                if last or self.step % options.log_every == 0:
                    means = self.team.mean({**figures, "stop": torch.tensor(float(stop()))})
                    stopping = bool(means.pop("stop"))  # some process was told to
                    shown = {name: value.item() for name, value in means.items()}
                    self._log(shown)
                if last or self.step % options.evaluate_every == 0:
                    self._evaluate()
                if last or stopping or self.step % options.save_every == 0:
                    self.save()
                bar.advance(1, **({"loss": shown["loss"]} if shown else {}))
                if stopping and not last:
                    _stop_as_told(self.step)

    def _progress(self) -> Progress:
        of = f" on {self.team.size} processes" if self.team.size > 1 else ""
        return Progress(
            self.options.steps, f"training{of}", "steps", self.step, quiet=not self.team.main
        )

    def _one_step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One step of the optimiser; this process's figures of it."""
        options, team = self.options, self.team
        # Processes draw apart from one another; what they must agree on they tell one another.
        torch.manual_seed((options.seed * 1_000_003 + self.step) + (team.rank << 48))
        rate = options.learning_rate * schedule(self.step, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.stepper.train()
        total: dict[str, Tensor] = {}
        passes = self._counted([next(batches) for _ in range(options.accumulate)])
        for number, batch in enumerate(passes):
            with team.gradients(self.stepper, number == len(passes) - 1):
                with team.accelerator.autocast():
                    loss, figures = self.stepper(batch)
                team.accelerator.backward(loss / options.accumulate)
            for name, value in {"loss": loss, **figures}.items():
                part = value.detach().float() / options.accumulate
                total[name] = total[name] + part if name in total else part
        norm = team.accelerator.clip_grad_norm_(self.stepper.parameters(), options.clip_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not (torch.isfinite(total["loss"]) and torch.isfinite(norm)):
            raise InputError(
                f"the loss or its gradient is no longer finite at step {self.step}: train into "
                f"another --out with a lower --learning-rate; {self.out} keeps the last good state"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Young averages forget faster, so that the initial weights leave no trace.
        self.average.update(min(options.ema_decay, (1 + self.step) / (10 + self.step)))
        return {**total, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def _counted(self, passes: list[Batch]) -> list[Batch]:
        """Batches on the device, each with what its means divide by, if that is not the same."""
        device = self.team.device
        passes = [{name: t.to(device) for name, t in batch.items()} for batch in passes]
        counts = [self.task.count(batch) for batch in passes]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) or self.team.size * len(passes) == 1:
            return passes
        mean = self.team.mean({"count": torch.stack(known).mean()})["count"]
        return [{**batch, "count": mean} for batch in passes]

    def _evaluate(self) -> None:
        """On every process alike, since each may hold a part of the weights only."""
        with (
            self.average.in_place() as module,
            self.team.together(self.stepper),
            torch.no_grad(),
        ):
            figures = self.task.evaluate(module)
        self._log({f"validation/{name}": value for name, value in figures.items()})

    def _log(self, figures: dict[str, float]) -> None:
        if figures and self.team.main:
            self.team.accelerator.log(figures, step=self.step)
            with open(self.out / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **figures}) + "\n")

    def publish(self) -> None:
        """Publish the model."""
        with self.average.in_place() as module:
            whole = self.team.whole_module(module)
            if self.team.main:
                self.task.save(whole, self.out)

    def save(self) -> None:
        """Publish the model, then the state, in one file so that its parts always fit together."""
        self.publish()
        state = self.team.whole({
            "step": self.step,
            "module": self.task.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        })  # fmt: skip
        if self.team.main:
            # Into an open file, since torch's own writer does not say why it can't write.
            with published(self.out / STATE) as partial, open(partial, "wb") as file:
                torch.save(state, file)

    def resume(self) -> None:
        path = self.out / STATE
        if path.exists():
            self._load(path)
        else:
            self.task.prepare()
        if self.team.main:
            _cut_metrics(self.out / METRICS, self.step)

    def _load(self, path: Path) -> None:
        try:
            if self.team.main:
                _require_sound(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            load_parts(self.task.module, self.optimizer, (state["module"], state["optimizer"]))
            own = self.average.state_dict()
            parts = {name: part_of(state["average"][name], own[name]) for name in own}
            self.average.load_state_dict(parts)
            self.step = _count(state["step"])
        except Exception as error:  # torch raises many types on damaged files
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"can't resume from {path}: {reason}; remove it to start again"
            ) from error


def _require_sound(path: Path) -> None:
    """ValueError if a bit of a state was flipped: torch writes checksums and does not look."""
    with zipfile.ZipFile(path) as parts:
        if damaged := parts.testzip():
            raise ValueError(f"its part {damaged} is damaged")


def _count(step: object) -> int:
    """How many steps a state is old; ValueError for what is no such number."""
    if not isinstance(step, int) or step < 0:
        raise ValueError(f"it is of step {step!r}")
    return step


def schedule(step: int, options: TrainingOptions) -> float:
    """Learning rate at a step over its peak: linear warm-up, then annealing to 0."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    if options.anneal == "linear":
        return max(0.0, 1 - done)
    if options.anneal == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 1.0


def training_cost(module: nn.Module, options: TrainingOptions) -> dict[str, str]:
    """What a dry run says: parameters, memory for weights and optimiser, disk."""
    count = sum(p.numel() for p in module.parameters())
    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    return {
        "parameters": f"{count:,}",
        "memory for weights, gradients, AdamW, average": f"{5 * size / 2**20:,.0f} MiB"
        " (activations come on top)",
        "disk": f"{5 * size / 2**20:,.0f} MiB (model and resumable state)",
        "items seen": f"{options.steps * options.batch_size:,}",
    }


def show_cost(cost: Mapping[str, str]) -> None:
    """Print what a dry run found."""
    for name, value in cost.items():
        print(f"{name}: {value}")


def _parameter_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    others = [p for p in module.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def training_device(options: TrainingOptions) -> torch.device:
    """Where a training with these options runs."""
    return pick_device(options.device)


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another training than this one."""
    claim_folder(out, RUN, "a training of this kind")
    ours = json.loads(json.dumps(settings))
    if not (out / STATE).exists():  # nothing was learned yet that could be mixed
        write_json(out / RUN, ours)
        return
    theirs = read_json(out / RUN)
    names = sorted((set(ours) | set(theirs)) - FREE)
    other = [name for name in names if ours.get(name) != theirs.get(name)]
    if other:
        name = other[0]
        raise InputError(
            f"{out} holds a training with {name} {theirs.get(name)!r}, not {ours.get(name)!r}: "
            "give the same options to go on, or choose another --out"
        )


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came meanwhile, as from a cluster that wants its machine back."""
    came: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    except ValueError:  # only a main thread may listen
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop_as_told(step: int) -> None:
    """End as SIGTERM would have ended it, now that everything is saved."""
    print(f"stopped by SIGTERM at step {step}: the same command goes on there", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _cut_metrics(path: Path, step: int) -> None:
    """Drop figures of steps that the resumed run will make again, and lines that were cut off."""
    if path.exists():
        lines = path.read_text("utf-8", "replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        with published(path) as partial:
            partial.write_text("".join(line + "\n" for line in kept), "utf-8")


def _step_of(line: str) -> float:
    """The step of an entry; infinity if it is damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf
