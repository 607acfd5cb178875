"""Which kind of steps a name means, and which serves best here. It knows none from inside."""

from conditioning.base import Condition
from plugins.ground.errors import InputError
from prior.native import NativeSteps
from prior.prior import Prior
from prior.static import CompiledSteps, GraphSteps
from prior.steps import Caches, EagerSteps, Steps

AUTO = "auto"

STEPS: dict[str, type[Steps]] = {
    "eager": EagerSteps,
    "compiled": CompiledSteps,
    "graphs": GraphSteps,
    "native": NativeSteps,
}
"""By name."""

# `compiled` is not among them: where it gains anything, it gains less than these, and most jobs are
# over before it has compiled.
BEST: tuple[type[Steps], ...] = (NativeSteps, GraphSteps, EagerSteps)


def check_engine(name: str, prior: Prior) -> None:
    """Refuse an engine that can't serve.

    Raises:
        InputError: there is none of that name, or it can't serve this prior where it is.
    """
    _kind(name, prior)


def make_steps(name: str, prior: Prior, condition: Condition, caches: Caches, batch: int) -> Steps:
    """Steps of the kind of that name; for "auto" of the fastest that can serve.

    Raises:
        InputError: see `check_engine`.
    """
    return _kind(name, prior)(prior, condition, caches, batch)


def _kind(name: str, prior: Prior) -> type[Steps]:
    if name == AUTO:
        return next(kind for kind in BEST if kind.why_not(prior) is None)
    if name not in STEPS:
        raise InputError(f"no engine {name!r}; there are: {AUTO}, {', '.join(STEPS)}")
    if reason := STEPS[name].why_not(prior):
        raise InputError(f"engine {name!r} can't serve this: {reason}")
    return STEPS[name]
