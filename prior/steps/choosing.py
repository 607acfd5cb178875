"""Which kind of steps a name means, and which serves best here. It knows none from inside."""

import torch

from plugins.ground.errors import InputError
from prior.config import PriorConfig
from prior.steps.base import EagerSteps, Steps
from prior.steps.native import NativeSteps
from prior.steps.static import CompiledSteps, GraphSteps

AUTO = "auto"

STEPS: dict[str, type[Steps]] = {
    "eager": EagerSteps,
    "compiled": CompiledSteps,
    "graphs": GraphSteps,
    "native": NativeSteps,
}
"""By name."""

BEST: tuple[type[Steps], ...] = (NativeSteps, GraphSteps, EagerSteps)
"""In the order of preference. `compiled` is not among them: on a CPU it is slower than
`native`, and most windows are over before it has compiled."""


def pick_steps(
    name: str, config: PriorConfig, device: torch.device, dtype: torch.dtype
) -> type[Steps]:
    """The kind of that name; for "auto" the fastest that can serve.

    Raises:
        InputError: there is none of that name, or it can't serve such a prior there.
    """
    if name == AUTO:
        return next(kind for kind in BEST if kind.why_not(config, device, dtype) is None)
    if name not in STEPS:
        raise InputError(f"no engine {name!r}; there are: {AUTO}, {', '.join(STEPS)}")
    if reason := STEPS[name].why_not(config, device, dtype):
        raise InputError(f"engine {name!r} can't serve this: {reason}")
    return STEPS[name]
