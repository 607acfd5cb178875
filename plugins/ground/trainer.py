"""The training loop: AdamW, warm-up, accumulation, clipping, weight averages, exact resumption.

It knows neither audio nor codes: a `Task` brings module, items and loss. Everything random in a
step is a function of (seed, step), so a resumed run needs no generator's state and ends with the
same bytes as an undisturbed one.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.files import claim_folder, published, read_json, write_json
from plugins.ground.options import FREE, TrainingOptions
from plugins.ground.progress import Progress

RUN, STATE, METRICS = "training.json", "state.pt", "metrics.jsonl"
Batch = dict[str, Tensor]


class Task(ABC):
    """What is trained, on what."""

    module: nn.Module

    def prepare(self) -> None:
        """Look at the data, once: before the first step of a run that is not resumed."""
        return

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


class _Items(Dataset[Mapping[str, Tensor]]):
    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        return self.task.item(index)


class _Passes:
    """Indices of the items of each pass, made when they are needed."""

    def __init__(self, starts: range, size: int) -> None:
        self.starts, self.size = starts, size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        return ([*range(start, start + self.size)] for start in self.starts)


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
        InputError: `out` holds something else or another training, the batch can't be split, or
            the loss is no longer finite.
    """
    accelerator = _accelerator(options, out)
    size = options.accumulate * accelerator.num_processes
    if options.batch_size % size:
        raise InputError(
            f"--batch-size {options.batch_size} can't be split into {options.accumulate} passes "
            f"on {accelerator.num_processes} processes"
        )
    _claim(out, settings)
    run = _Run(task, options, out, accelerator)
    run.resume()
    if run.step < options.steps:
        accelerator.init_trackers("tensorboard")
        run.go()
        accelerator.end_training()


class _Run:
    """One training in progress: module, average, optimiser, step."""

    def __init__(
        self, task: Task, options: TrainingOptions, out: Path, accelerator: Accelerator
    ) -> None:
        self.task, self.options, self.out, self.accelerator = task, options, out, accelerator
        self.step = 0
        task.module.to(accelerator.device)
        self.average = AveragedModel(task.module, avg_fn=self._averaged)
        optimizer = torch.optim.AdamW(
            _parameter_groups(task.module, options.weight_decay),
            lr=options.learning_rate,
            betas=(0.9, options.beta2),
            fused=True,
        )
        self.stepper, self.optimizer = accelerator.prepare(_Step(task), optimizer)

    def _averaged(self, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        """Young averages forget faster, so that the initial weights leave no trace."""
        decay = min(self.options.ema_decay, (1 + self.step) / (10 + self.step))
        return average.lerp(current, 1 - decay)

    def go(self) -> None:
        options = self.options
        batches = self._batches()
        with Progress(options.steps, "training", "steps", self.step) as bar:
            while self.step < options.steps:
                figures = self._one_step(batches)
                self.step += 1
                last = self.step == options.steps
                shown: dict[str, float] = {}
                if last or self.step % options.log_every == 0:
                    shown = {name: value.item() for name, value in figures.items()}
                    self._log(shown)
                if last or self.step % options.evaluate_every == 0:
                    self._evaluate()
                if last or self.step % options.save_every == 0:
                    self.save()
                bar.advance(1, **({"loss": shown["loss"]} if shown else {}))

    def _one_step(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        options, accelerator = self.options, self.accelerator
        torch.manual_seed(options.seed * 1_000_003 + self.step)
        rate = options.learning_rate * schedule(self.step, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.stepper.train()
        total: dict[str, Tensor] = {}
        for _ in range(options.accumulate):
            batch = {name: t.to(accelerator.device) for name, t in next(batches).items()}
            with accelerator.autocast():
                loss, figures = self.stepper(batch)
            accelerator.backward(loss / options.accumulate)
            for name, value in {"loss": loss, **figures}.items():
                part = value.detach().float() / options.accumulate
                total[name] = total[name] + part if name in total else part
        norm = accelerator.clip_grad_norm_(self.stepper.parameters(), options.clip_norm)
        if not (torch.isfinite(total["loss"]) and torch.isfinite(norm)):
            raise InputError(
                f"the loss or its gradient is no longer finite at step {self.step}: train into "
                f"another --out with a lower --learning-rate; {self.out} keeps the last good state"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.task.module)
        return {**total, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def _batches(self) -> Iterator[Batch]:
        """Items in order of their index; each process takes its share of every pass."""
        options, accelerator = self.options, self.accelerator
        share = options.batch_size // options.accumulate // accelerator.num_processes
        first = (self.step * options.batch_size) + accelerator.process_index * share
        last = options.steps * options.batch_size
        passes = _Passes(range(first, last, share * accelerator.num_processes), share)
        loader = DataLoader(_Items(self.task), batch_sampler=passes, num_workers=options.workers)
        # Begun here, since it draws from the generator that each step seeds anew.
        return _with_plain_errors(iter(loader))

    def _evaluate(self) -> None:
        self.average.eval()
        with torch.no_grad():
            figures = self.task.evaluate(self.average.module)
        self._log({f"validation/{name}": value for name, value in figures.items()})

    def _log(self, figures: dict[str, float]) -> None:
        if figures and self.accelerator.is_main_process:
            self.accelerator.log(figures, step=self.step)
            with open(self.out / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **figures}) + "\n")

    def save(self) -> None:
        """Publish the model, then the state, in one file so that its parts always fit together."""
        if not self.accelerator.is_main_process:
            return
        self.publish()
        state = {
            "step": self.step,
            "module": self.task.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        # Into an open file, since torch's own writer does not say why it can't write.
        with published(self.out / STATE) as partial, open(partial, "wb") as file:
            torch.save(state, file)

    def resume(self) -> None:
        path = self.out / STATE
        if path.exists():
            self._load(path)
        else:
            self.task.prepare()
        if self.accelerator.is_main_process:
            _cut_metrics(self.out / METRICS, self.step)

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            self.task.module.load_state_dict(state["module"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
        except Exception as error:  # torch raises many types on damaged files
            raise InputError(
                f"can't resume from {path}: {str(error).splitlines()[0]}; remove it to start again"
            ) from error

    def publish(self) -> None:
        self.task.save(self.average.module.eval(), self.out)


def _with_plain_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """An error of a process that prepares batches comes with its traceback: take it off."""
    try:
        yield from batches
    except InputError as error:
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        raise InputError(str(error).splitlines()[-1].removeprefix(name)) from error


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


def bfloat16(options: TrainingOptions) -> bool:
    """Whether it computes in bfloat16."""
    if options.precision == "auto":
        cuda = training_device(options).type == "cuda"
        return cuda and torch.cuda.is_bf16_supported()
    return options.precision == "bfloat16"


def _accelerator(options: TrainingOptions, out: Path) -> Accelerator:
    return Accelerator(
        cpu=options.device == "cpu",
        mixed_precision="bf16" if bfloat16(options) else "no",
        log_with="tensorboard",
        project_dir=out,
    )


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


def _cut_metrics(path: Path, step: int) -> None:
    """Drop figures of steps that the resumed run will make again."""
    if path.exists():
        lines = path.read_text("utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        with published(path) as partial:
            partial.write_text("".join(line + "\n" for line in kept), "utf-8")
