"""A folder that holds a model: `config.json` and `model.safetensors`, nothing pickled.

It knows neither codecs nor priors: a config is a dictionary, weights are named tensors.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plugins.ground.errors import InputError
from plugins.ground.files import published, read_json, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


def save_model(folder: Path | str, kind: str, config: Mapping[str, Any], module: nn.Module) -> None:
    """Publish a module's parameters and buffers, then its config.

    Args:
        folder: made if missing; weights that it holds are replaced.
        kind: "codec" or "prior", checked by `load_config`.
        config: everything that is needed to build the module again; JSON types.
        module: its whole `state_dict` is written.
    """
    folder = Path(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
    with published(folder / WEIGHTS) as partial:
        save_file(tensors, partial)
    write_json(folder / CONFIG, {"format": FORMAT, "kind": kind, **config})


def load_config(folder: Path | str, kind: str) -> dict[str, Any]:
    """The config of a model folder.

    Raises:
        InputError: no model there, one of another kind, or one of a newer format.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise InputError(f"no {kind} in {folder}: {CONFIG} is missing")
    config = read_json(folder / CONFIG)
    found = config.get("kind") if isinstance(config, dict) else None
    if found != kind:
        raise InputError(f"{folder} holds a {found or 'different thing'}, not a {kind}")
    if config.get("format", 0) > FORMAT:
        raise InputError(
            f"{folder} has format {config['format']}, newer than {FORMAT}: update jukebox-toolkit"
        )
    return config


def load_weights(folder: Path | str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a model folder, by memory map.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(folder) / WEIGHTS
    try:
        return load_file(path, device=str(device))
    except Exception as error:  # safetensors raises its own type, OSError or RuntimeError
        raise InputError(f"can't read weights {path}: {error}") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Put weights into a module; every name and shape must agree.

    Raises:
        InputError: names the weights that are missing, left over or of another shape.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is left over" for name in tensors if name not in own]
    wrong += [
        f"{name} has shape {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise InputError(f"weights in {where} do not fit its config: {'; '.join(wrong[:5])}")
    module.load_state_dict(dict(tensors))


def fingerprint(config: Mapping[str, Any], module: nn.Module) -> str:
    """Name of a config and weights together: the first 16 hexadecimal digits of their SHA-256."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
