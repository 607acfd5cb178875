"""Which device and which precision a name means; the one place that asks. It knows no model."""

from typing import Literal

import torch

from plugins.ground.errors import InputError

Precision = Literal["float32", "bfloat16", "float16"]


def pick_device(name: str) -> torch.device:
    """The device of that name; for "auto" the accelerator if there is one, else the CPU.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device {name!r} here: give auto, cpu, cuda or mps") from error
    return device


def pick_dtype(name: Precision, device: torch.device) -> torch.dtype:
    """The precision of that name.

    Raises:
        InputError: the device can't compute in it.
    """
    dtype: torch.dtype = getattr(torch, name)
    try:
        one = torch.ones(1, 1, device=device, dtype=dtype)
        torch.nn.functional.linear(one, one)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{device} can't compute in {name}: give another --dtype") from error
    return dtype
