"""What both sides of `peers.py` do alike with a model that has a loss; it knows neither side.

It imports PyTorch alone, since one side runs where this toolkit is not. Shapes: B batch, T codes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from costs import Work, peak, seconds
from serving import Answer, Build, Run
from torch import Tensor, nn

CPU = torch.device("cpu")
VOCABULARY = 2048

Settings = Mapping[str, Any]


def timed(work: Callable[[], object], grad: bool = False) -> Run:
    """Seconds of `work`."""

    def run() -> Answer:
        with torch.set_grad_enabled(grad):
            return {"seconds": seconds(work, CPU)}

    return run


def model_tasks(
    make: Callable[[Settings], Any], loss: Callable[[Any, Tensor], Tensor]
) -> dict[str, Build]:
    """Tasks by name: `forward`, `train` and `train_memory`.

    Args:
        make: a model of a shape.
        loss: of a model and codes [B, T].
    """

    def forward(settings: Settings) -> Run:
        """The loss of a window of codes."""
        model = make(settings["shape"]).eval()
        codes = torch.randint(VOCABULARY, (1, settings["codes"]))
        return timed(lambda: loss(model, codes))

    def step_of(settings: Settings) -> Work:
        model = make(settings["shape"]).train()
        codes = torch.randint(VOCABULARY, (settings["batch"], settings["shape"]["context"]))
        optimiser = torch.optim.AdamW(model.parameters(), **settings["optimiser"])

        def step() -> None:
            loss(model, codes).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return step

    def train(settings: Settings) -> Run:
        """A step of training."""
        return timed(step_of(settings), grad=True)

    def train_memory(settings: Settings) -> Run:
        """What a step needs beyond weights and the optimiser's state, which the first step made."""
        step = step_of(settings)
        step()
        return lambda: {"bytes": peak(step, CPU)}

    return {"forward": forward, "train": train, "train_memory": train_memory}
