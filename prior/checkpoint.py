"""A folder <-> a prior: its config, with the spec of the codes that it was trained on, and weights.

It knows neither training state nor published formats.
"""

from pathlib import Path

import torch
from pydantic import ValidationError

from plugins.ground.errors import InputError, first_problem
from plugins.ground.saved import load_config, load_into, outline, save_model
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
    folder: Path | str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    layers: int | None = None,
) -> Prior:
    """The prior in a folder, in evaluation mode.

    Memory holds the weights once, in the dtype asked for; on the CPU, in the dtype of the file,
    they are a map of it.

    Args:
        folder: as `save_prior` leaves it; its files may be replaced by others in the meantime,
            but must not be written to.
        device: where to.
        dtype: of the weights; float32 by default, whatever the file holds.
        layers: how many of the transformer's layers are wanted, from the first on: the others are
            not read, and there are no logits then. All by default.

    Raises:
        InputError: no prior there, a damaged one, one whose conditioners are not installed, or
            one that has not so many layers.
    """
    dtype, config = dtype or torch.float32, read_config(folder)
    wanted = config.depth if layers is None else layers
    if not 1 <= wanted <= config.depth:
        raise InputError(f"{folder} has 1 to {config.depth} layers to load, not {wanted}")
    # Conditioners are built in earnest, since they may keep buffers that no file holds; all else
    # is only outlined until its weights come.
    conditioners = build_conditioners(config)
    outline(conditioners, device, dtype)
    with torch.device("meta"):
        prior = Prior(config, conditioners)
    unread = tuple(f"transformer.layers.{layer}." for layer in range(wanted, config.depth))
    load_into(prior, folder, dtype=dtype, device=device, skip=unread)
    del prior.transformer.layers[wanted:]
    return prior.eval()
