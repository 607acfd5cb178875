"""A moving average of a module's parameters, which may lie in parts on several processes.

It does not know what is trained, nor when a step is done.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """The parameters of a module as a moving average has them; buffers are the module's own."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kept = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move towards what the parameters are now."""
        for name, parameter in self._module.named_parameters():
            self._kept[name].lerp_(parameter, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """The module with the average for parameters, in evaluation mode; then as it was."""
        training = self._module.training
        self._swap()
        try:
            yield self._module.eval()
        finally:
            self._swap()
            self._module.train(training)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._module.named_parameters():
            current = parameter.detach().clone()
            parameter.copy_(self._kept[name])
            self._kept[name].copy_(current)

    def state_dict(self) -> dict[str, Tensor]:
        """By the parameters' names."""
        return dict(self._kept)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up an average of the same module.

        Raises:
            KeyError: a parameter is missing.
            RuntimeError: one has another shape.
        """
        for name, tensor in self._kept.items():
            tensor.copy_(state[name])
