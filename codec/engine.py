"""How a codec's networks are computed in use: by PyTorch, or in C++ where that can be.

It knows names and reasons, not what is computed. Training always goes through PyTorch.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec import native
from codec.config import ENGINES
from codec.quantize import Finder, two_nearest
from plugins.ground.errors import InputError


class Engine(NamedTuple):
    """Functions that compute a codec's parts."""

    run: Callable[[nn.Module, Tensor], Tensor]
    """An encoder or decoder and what goes in, [1, W, T], to what comes out."""
    find: Finder


EAGER = Engine(lambda module, x: module(x), two_nearest)
NATIVE = Engine(native.run, native.two_nearest)


def engine_for(name: str, network: nn.Module) -> Engine:
    """The engine of that name, for all parts of a network (encoders or decoders).

    "auto" is "native" where it can serve a network that is not in training, else "eager".

    Raises:
        InputError: no such engine, or it can't serve this network here; says why.
    """
    if name not in ENGINES:
        raise InputError(f"no engine {name!r}; there are: {', '.join(ENGINES)}")
    if name == "eager" or (name == "auto" and (network.training or torch.is_grad_enabled())):
        return EAGER
    reason = next(filter(None, map(native.why_not, network.children())), None)
    if reason and name == "native":
        raise InputError(f"engine 'native' can't compute this codec: {reason}; take 'auto'")
    return EAGER if reason else NATIVE
