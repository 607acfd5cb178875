"""A folder that holds a model: `config.json` and `model.safetensors`, nothing pickled.

It knows neither codecs nor priors: a config is a dictionary, weights are named tensors. They are
written and read one at a time, so that neither needs a second copy of them all.
"""

import hashlib
import json
import math
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from plugins.ground.errors import InputError
from plugins.ground.files import published, read_json, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1

Shape = tuple[int, ...]
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of tensors by their names in the file."""


def save_model(folder: Path | str, kind: str, config: Mapping[str, Any], module: nn.Module) -> None:
    """Publish a module's parameters and buffers, then its config.

    Args:
        folder: made if missing; weights that it holds are replaced.
        kind: "codec" or "prior", checked by `load_config`.
        config: everything that is needed to build the module again; JSON types.
        module: its whole `state_dict` is written.

    Raises:
        InputError: the folder can't be written.
    """
    state = module.state_dict()
    layout = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
    write_weights(Path(folder) / WEIGHTS, layout, state.items())
    save_config(folder, kind, config)


def save_config(folder: Path | str, kind: str, config: Mapping[str, Any]) -> None:
    """Publish a model's config, as `save_model` does.

    Raises:
        InputError: the folder can't be written.
    """
    write_json(Path(folder) / CONFIG, {"format": FORMAT, "kind": kind, **config})


def write_weights(
    path: Path | str,
    layout: Mapping[str, tuple[Shape, torch.dtype]],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Publish a safetensors file, holding one tensor at a time.

    Args:
        path: the file.
        layout: shape and dtype of every tensor, by name.
        tensors: each of them once, in any order, on any device.

    Raises:
        InputError: the file can't be written.
        ValueError: the tensors are not those of the layout.
    """
    header, places = _header(layout)
    missing = set(layout)
    with published(path) as partial, open(partial, "wb") as file:
        file.write(header)
        for name, tensor in tensors:
            if name not in missing or layout[name] != (tuple(tensor.shape), tensor.dtype):
                raise ValueError(f"{name} {list(tensor.shape)} {tensor.dtype} is not in the layout")
            missing.remove(name)
            file.seek(len(header) + places[name])
            file.write(_bytes_of(tensor))
        if missing:
            raise ValueError(f"tensors that never came: {', '.join(sorted(missing)[:5])}")


def _header(layout: Mapping[str, tuple[Shape, torch.dtype]]) -> tuple[bytes, dict[str, int]]:
    """The file's beginning, and where behind it the bytes of each tensor begin.

    The widest types come first, so that every tensor lies at a multiple of its items' size.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {}
    places: dict[str, int] = {}
    end = 0
    for name in sorted(layout, key=lambda name: -layout[name][1].itemsize):
        shape, dtype = layout[name]
        places[name], end = end, end + math.prod(shape) * dtype.itemsize
        offsets = [places[name], end]
        entries[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, places


def _bytes_of(tensor: Tensor) -> Any:
    """A tensor's bytes as an array [bytes]."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


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
    if not isinstance(config.get("format", 0), int):
        raise InputError(f"{folder / CONFIG} is damaged: it has no format version; restore it")
    if config.get("format", 0) > FORMAT:
        raise InputError(
            f"{folder} has format {config['format']}, newer than {FORMAT}: update jukebox-toolkit"
        )
    return config


def tensor_shapes(folder: Path | str) -> dict[str, tuple[Shape, torch.dtype]]:
    """Shape and dtype of every tensor of a model folder, by name; reads the header alone.

    Raises:
        InputError: the file is missing or damaged.
    """
    path, shapes = Path(folder) / WEIGHTS, {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            part = file.get_slice(name)
            if part.get_dtype() not in DTYPES:
                raise InputError(f"{path}: {name} is of type {part.get_dtype()}, which is not read")
            shapes[name] = (tuple(part.get_shape()), DTYPES[part.get_dtype()])
    return shapes


def load_weights(folder: Path | str) -> dict[str, Tensor]:
    """The tensors of a model folder, as they are, on the CPU.

    They are a private map of the file: a tensor takes memory once it is used, and may be written
    to, which leaves the file as it is.

    Raises:
        InputError: the file is missing or damaged.
    """
    names = tensor_shapes(folder)
    with _opened(Path(folder) / WEIGHTS) as file:
        return {name: file.get_tensor(name) for name in names}


def load_into(
    module: nn.Module,
    folder: Path | str,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    skip: tuple[str, ...] = (),
) -> None:
    """Put the weights of a folder in place of a module's own, one tensor after the other.

    Memory holds them once, in the dtype asked for, and beside them the tensor under way. Those
    that are on the right device in the right dtype as they lie in the file are not copied at all,
    as `load_weights` says. What else the module has is its own; it may be on the meta device.

    Args:
        module: every name and shape must agree with the file's.
        folder: of the model.
        dtype: of floating tensors; None: what each of the module's own has. Others keep theirs.
        device: where to.
        skip: beginnings of names that are checked, but neither read nor put anywhere.

    Raises:
        InputError: the file is missing or damaged, does not fit the module (names what is missing,
            left over or of another shape), or holds NaN or infinity in this dtype (names it).
    """
    path, own, kept = Path(folder) / WEIGHTS, module.state_dict(), tensor_shapes(folder)
    _check_fit(own, kept, folder)
    wanted: dict[str, torch.dtype] = {}
    for name, tensor in own.items():
        if not name.startswith(skip):
            wanted[name] = dtype if dtype and tensor.is_floating_point() else tensor.dtype
    plain = torch.device(device).type == "cpu"
    mapped = {name for name in wanted if plain and wanted[name] == kept[name][1]}
    del own
    for name, tensor in _tensors(path, wanted, mapped):
        converted = tensor.to(wanted[name])
        _check_finite(converted, tensor, f"{path}: {name}")
        _assign(module, name, converted.to(device))


def outline(module: nn.Module, device: str | torch.device, dtype: torch.dtype) -> None:
    """Let go of all weights of a module that a folder would hold, and move the buffers that none
    would, floating ones to this dtype: `load_into` does the rest.
    """
    state = module.state_dict()
    for name, buffer in [*module.named_buffers()]:
        if name not in state:
            owner, _, leaf = name.rpartition(".")
            kind = dtype if buffer.is_floating_point() else buffer.dtype
            setattr(module.get_submodule(owner), leaf, buffer.to(device, kind))
    for name in state:
        _assign(module, name, torch.empty_like(state[name], device="meta"))


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module.get_submodule(owner).load_state_dict({leaf: tensor}, strict=False, assign=True)


def _tensors(
    path: Path, names: Iterable[str], mapped: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name. Those of `mapped` share a map of the file, which stays; each of the others
    has one of its own that goes with it, since pages that were read count as long as they are
    mapped.
    """
    with _opened(path) as shared:
        for name in names:
            if name in mapped:
                yield name, shared.get_tensor(name)
            else:
                with _opened(path) as own:
                    yield name, own.get_tensor(name)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except Exception as error:  # safetensors raises its own type, OSError or RuntimeError
        raise InputError(
            f"can't read weights {path}: {error}; restore the file, or make it again"
        ) from error


def check_fit(module: nn.Module, folder: Path | str) -> None:
    """Compare names and shapes of a module with the weights in a folder, which are not read.

    Args:
        module: may be on the meta device.
        folder: of the model.

    Raises:
        InputError: the file is missing or damaged, or does not fit the module.
    """
    _check_fit(module.state_dict(), tensor_shapes(folder), folder)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy weights into a module; every name and shape must agree.

    Raises:
        InputError: names the weights that are missing, left over or of another shape, or that
            hold NaN or infinity.
    """
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    _check_fit(module.state_dict(), shapes, where)
    for name, tensor in tensors.items():
        _check_finite(tensor, tensor, f"{where}: {name}")
    module.load_state_dict(dict(tensors))


def _check_fit(
    own: Mapping[str, Tensor],
    kept: Mapping[str, tuple[Shape, torch.dtype]],
    where: Path | str,
) -> None:
    wrong = [f"{name} is missing" for name in own if name not in kept]
    wrong += [f"{name} is left over" for name in kept if name not in own]
    for name, tensor in own.items():
        shape, dtype = kept.get(name, (tuple(tensor.shape), tensor.dtype))
        if shape != tuple(tensor.shape):
            wrong.append(f"{name} has shape {list(shape)}, not {list(tensor.shape)}")
        elif dtype != tensor.dtype and not (dtype.is_floating_point and tensor.is_floating_point()):
            wrong.append(f"{name} has type {dtype}, not {tensor.dtype}")
    if wrong:
        raise InputError(f"weights in {where} do not fit its config: {'; '.join(wrong[:5])}")


def _check_finite(converted: Tensor, source: Tensor, what: str) -> None:
    """Refuse a tensor with NaN or infinity in it, be it from the source or from the conversion."""
    if not converted.is_floating_point() or finite(converted):
        return
    if finite(source):
        raise InputError(f"{what} is too large for {converted.dtype}: choose bfloat16 or float32")
    raise InputError(f"{what} holds NaN or infinity: the file is damaged, make it again")


def finite(tensor: Tensor) -> bool:
    """Whether all of a floating tensor is: the extremes show it, in whatever dtype."""
    return not tensor.numel() or all(value.isfinite() for value in tensor.aminmax())


def fingerprint(config: Mapping[str, Any], module: nn.Module) -> str:
    """Name of a config and weights together: the first 16 hexadecimal digits of their SHA-256."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:16]
