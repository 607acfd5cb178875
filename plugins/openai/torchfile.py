"""Files of `torch.save` in the published layout: a state dict and hyper-parameters.

Nothing pickled is ever run. It knows no names of tensors and no meaning of hyper-parameters.
"""

import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import skip_data

from plugins.ground.errors import InputError

ZIP = b"PK\x03\x04"
REMAP = 256 << 20
"""Bytes that are read through one map of a file: pages that were read count as memory used for as
long as they are mapped."""
PREFIX = "module."
"""What data-parallel training puts before every name."""


FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True)
class Stored:
    """What a file says of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Checkpoint:
    """A published checkpoint: what is in it at once, weights when they are taken.

    Args:
        path: `{"model": {name: tensor}, "hps": {...}, ...}`, saved by any version of torch, with
            or without `PREFIX` before the names.

    Raises:
        InputError: the file can't be read, is damaged or something else, or would run code.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        content = _read(self.path, weights=False)
        hps = content.get("hps")
        self.hps: dict[str, Any] | None = hps if isinstance(hps, dict) and hps else None
        """Hyper-parameters, if it has any."""
        self.stored = {
            name: Stored(tuple(tensor.shape), tensor.dtype)
            for name, tensor in _weights_of(self.path, content).items()
        }
        """Every tensor by name."""


class Weights:
    """The tensors of a checkpoint, each of which is taken once.

    Memory holds no more than they take in the file. A zip file is mapped, and its pages are let
    go after every `REMAP` bytes; an older file can't be mapped, and what was taken is forgotten.

    Raises:
        InputError: as `Checkpoint`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._mapped = _is_zip(self.path)
        self._open()

    def _open(self) -> None:
        self._tensors = _weights_of(self.path, _read(self.path))
        self._taken = 0

    def take(self, name: str) -> Tensor:
        """The tensor of that name, as it is stored; let it go before taking many more."""
        if self._mapped and self._taken > REMAP:
            self._tensors = {}
            self._open()
        tensor = self._tensors.pop(name)
        self._taken += tensor.nbytes
        return tensor


def _is_zip(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(ZIP)) == ZIP
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error


def _read(path: Path, *, weights: bool = True) -> dict[str, Any]:
    """What was saved; without `weights`, tensors may hold anything, and little memory is used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on pickles of other versions
            if _is_zip(path):
                _check_size(path)
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            elif weights:
                content = torch.load(path, map_location="cpu", weights_only=True)
            else:
                with skip_data():
                    content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch lets through whatever a damaged file leads to
        raise InputError(f"{path} {_problem(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(
            f"{path} is not a published checkpoint: it holds no 'model' with named weights"
        )
    return content


def _check_size(path: Path) -> None:
    """Refuse a zip file that stands for more bytes than it has; torch stores them as they are."""
    with zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist())
    if size > path.stat().st_size:
        raise InputError(
            f"{path} unpacks to {size:,} bytes, more than it has: it was not made by torch.save"
        )


def _problem(error: Exception) -> str:
    """Why torch would not load a file."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f"wants to run {wanted[1]} when it is loaded, which weights never need: it was not "
            "run, and nothing was converted"
        )
    if "not enough memory" in str(error):
        return "has more weights than there is memory for"
    return "is damaged, incomplete, or not made by torch.save: download it again"


def _weights_of(path: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for full, tensor in content["model"].items():
        name = str(full).removeprefix(PREFIX)
        if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS or not _is_plain(tensor):
            raise InputError(f"{path}: {full!r} is no tensor of floating-point weights")
        if name in tensors:
            raise InputError(f"{path} holds {name} twice, with and without {PREFIX!r}")
        tensors[name] = tensor
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds a number for each of its entries."""
    return tensor.layout == torch.strided and not tensor.is_meta
