"""A folder <-> a prior: its config, with the spec of the codes that it was trained on, and weights.

It knows neither training state nor published formats.
"""

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from plugins.ground.errors import InputError, first_problem
from plugins.ground.saved import fill, load_config, load_weights, save_model
from prior.config import PriorConfig
from prior.prior import Prior, build_conditioners

KIND = "prior"


def save_prior(prior: Prior, folder: Path | str) -> None:
    """Publish weights and config, in the dtype that the weights have.

    Raises:
        InputError: the folder can't be written.
    """
    save_model(folder, KIND, prior.config.model_dump(mode="json"), prior)


def read_config(folder: Path | str) -> PriorConfig:
    """The config of the prior in a folder.

    Raises:
        InputError: there is none, or it does not hold what this version expects.
    """
    kept = load_config(folder, KIND)
    try:
        return PriorConfig.model_validate(
            {name: value for name, value in kept.items() if name not in ("format", "kind")}
        )
    except ValidationError as error:
        raise InputError(f"config of the prior in {folder}: {first_problem(error)}") from error


def load_prior(
    folder: Path | str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Prior:
    """The prior in a folder, in evaluation mode.

    Memory holds the weights once, in the dtype asked for; the file is mapped.

    Args:
        folder: as `save_prior` leaves it.
        device: where to.
        dtype: of the weights; float32 by default, whatever the file holds.

    Raises:
        InputError: no prior there, a damaged one, or one whose conditioners are not installed.
    """
    dtype = dtype or torch.float32
    config = read_config(folder)
    # Conditioners are built in earnest, since they may keep buffers that no file holds; for the
    # rest there is only room made.
    conditioners = build_conditioners(config).to(device, dtype)
    with torch.device("meta"):
        prior = Prior(config, conditioners)
    prior.conditioners = nn.ModuleDict()
    prior.to(dtype).to_empty(device=device)
    prior.conditioners = conditioners
    fill(prior, load_weights(folder), folder)
    return prior.eval()
