"""Which device a name means; the one place that asks. It knows no model."""

import torch

from plugins.ground.errors import InputError


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
