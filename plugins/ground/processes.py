"""One training on several processes: what each holds, and what they tell one another.

Either each holds the whole module and gradients are averaged (DistributedDataParallel, through
accelerate), or each holds a part of every tensor, put together a block at a time when it is needed
(FSDP2, Zhao et al. 2023, arXiv 2304.11277). It knows no step and no loss.
"""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions

LOST = ("Connection", "connection", "closed by", "Timed out", "timed out", "Broken pipe")
"""What libraries say when another process is no longer there."""


class Team:
    """The processes that train together; one is a team too.

    Args:
        options: say where to compute, in which precision, and whether to hold parts.
        out: folder for what trackers write.
    """

    def __init__(self, options: TrainingOptions, out: Path) -> None:
        self.accelerator = Accelerator(
            # Not the options' word for it: on a machine without accelerator "auto" is a CPU too.
            cpu=pick_device(options.device).type == "cpu",
            mixed_precision="bf16" if bfloat16(options) else "no",
            log_with="tensorboard",
            project_dir=out,
        )
        self.size: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        self.main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        self.sharded = options.shard and self.size > 1
        self._plain: nn.Module | None = None

    def shard(self, step: nn.Module, module: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Leave to each process its part of a module, where that is wished for.

        Args:
            step: whose forward pass uses the module.
            module: what is trained.
            blocks: parts of it that are put together one at a time; the rest is together during
                a whole step.

        Raises:
            InputError: a parameter that can't be parted.
        """
        if not self.sharded:
            return
        for name, parameter in module.named_parameters():
            if not parameter.ndim:
                raise InputError(f"--shard can't part {name}, which is a single number")
        self._plain = _outline(module)
        mesh = init_device_mesh(self.device.type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(step, mesh=mesh)

    def wrap(self, step: nn.Module) -> nn.Module:
        """The step, so that its backward pass leaves mean gradients on every process."""
        if self.sharded:
            return step
        wrapped: nn.Module = self.accelerator.prepare(step)
        return wrapped

    @contextlib.contextmanager
    def gradients(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Around a pass: only the `last` of a step sends gradients to the other processes."""
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(last)
            yield
            return
        with contextlib.nullcontext() if last else self.accelerator.no_sync(wrapped):
            yield

    @contextlib.contextmanager
    def together(self, wrapped: nn.Module) -> Iterator[None]:
        """Around forward passes of the module itself: what no block holds is put together."""
        if not isinstance(wrapped, FSDPModule):
            yield
            return
        wrapped.unshard()
        try:
            yield
        finally:
            wrapped.reshard()

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Single numbers by name, each the mean over processes."""
        if self.size == 1 or not values:
            return dict(values)
        row = torch.stack([value.detach().float().to(self.device) for value in values.values()])
        return dict(zip(values, self.accelerator.reduce(row, "mean"), strict=True))

    def whole(self, tree: Any) -> Any:
        """A tree of dictionaries and lists with whole tensors; the main process's alone counts."""
        if isinstance(tree, DTensor):
            full = tree.full_tensor()
            return full.cpu() if self.main else full.new_empty(0)
        if isinstance(tree, Mapping):
            return {name: self.whole(part) for name, part in tree.items()}
        return [self.whole(part) for part in tree] if isinstance(tree, list) else tree

    def whole_module(self, module: nn.Module) -> nn.Module:
        """The module with whole tensors, to save it; the main process's alone counts."""
        if self._plain is None:
            return module
        state = self.whole(module.state_dict())
        if self.main:
            self._plain.load_state_dict(state, assign=True)
        return self._plain.eval()

    @contextlib.contextmanager
    def reporting_losses(self) -> Iterator[None]:
        """Say in one line that another process is gone, where that is what went wrong.

        Raises:
            InputError: so it is.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(word in str(error) for word in LOST):
                raise
            raise InputError(
                f"process {self.rank} of {self.size} lost another one, which was killed or ended "
                "with an error of its own: the same command goes on from the last saved state"
            ) from error


def part_of(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor as `own` lies: this process's part of it, or all."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(
        value.to(own.device), own.device_mesh, own.placements, src_data_rank=None
    )


def load_parts(module: nn.Module, optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Take up the whole state of a module and its optimiser, as `Team.whole` gave it."""
    own = module.state_dict()
    module.load_state_dict({k: part_of(v, own[k]) if k in own else v for k, v in state[0].items()})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {
            name: part_of(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in kept.items()
        }
        for number, kept in state[1]["state"].items()
    }
    optimizer.load_state_dict({**state[1], "state": moments})


def bfloat16(options: TrainingOptions) -> bool:
    """Whether a training with these options computes in bfloat16."""
    if options.precision == "auto":
        cuda = pick_device(options.device).type == "cuda"
        return cuda and torch.cuda.is_bf16_supported()
    return options.precision == "bfloat16"


def _outline(module: nn.Module) -> nn.Module:
    """A copy of a module whose tensors take no memory."""
    tensors = [*module.parameters(), *module.buffers()]
    empty: dict[int, Any] = {}
    for tensor in tensors:
        made = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        empty[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if is_parameter else made
    return copy.deepcopy(module, empty)
