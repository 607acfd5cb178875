"""Encoders, decoders and nearest entries in C++ on a CPU: `native.cpp` for the codec's modules.

It walks the modules that training trains and holds no weights of its own: they are laid out anew
for every call, which takes a thousandth of what a tile takes, so they are never stale. It knows
neither levels nor tiles. Shapes: W channels that come in, V that go out, K taps of a convolution,
T positions, P vectors, D their width, E entries of a codebook.
"""

import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from codec.resnet import ResidualBlock, ResidualStack
from plugins.ground import native

SOURCE = Path(__file__).with_suffix(".cpp")
PAIR = 2
"""Vectors of outputs whose weights lie together; `native.cpp` says why."""

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class Unsupported(Exception):
    """A module that there is no C++ for."""


class _Weights(ctypes.Structure):
    _fields_ = (
        ("weight", _POINTER),
        ("bias", _POINTER),
        *((name, _INT) for name in ("in_", "out", "taps")),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        ("conv", _Weights * 2),
        *((name, _INT) for name in ("dilation", "stride", "padding", "phases", "residual")),
        ("scale", ctypes.c_float),
    )


def library() -> ctypes.CDLL | None:
    """What `native.cpp` was compiled to, or None with a warning."""
    made = native.load(SOURCE)
    if made is not None:
        made.jukebox_codec_length.restype = _LONG
    return made


def _made() -> ctypes.CDLL:
    made = library()
    assert made is not None  # `why_not` saw to that
    return made


def why_not(module: nn.Module) -> str | None:
    """Why `run` can't serve a module, or None if it can."""
    try:
        list(_leaves(module))
    except Unsupported as error:
        return str(error)
    return None if library() else native.MISSING


def run(module: nn.Module, x: Tensor) -> Tensor:
    """What a tree of `codec.encdec` makes of x: [B, W, T] -> [B, V, positions], item by item.

    Call it where `why_not` has nothing against it. The result does not depend on the number of
    threads, and knows no gradients.
    """
    packed = _Packed(_made().jukebox_codec_lanes())
    leaves = [packed.layer(leaf) for leaf in _leaves(module)]
    layers = (_Layer * len(leaves))(*leaves)
    if x.shape[1] != layers[0].conv[0].in_:
        raise ValueError(f"{layers[0].conv[0].in_} channels go in, not {x.shape[1]}")
    return torch.stack([_run(layers, item.T) for item in x.detach()]).mT


def _run(layers: "ctypes.Array[_Layer]", x: Tensor) -> Tensor:
    """[T, W] -> [positions, V]."""
    x = x.to("cpu", torch.float32).contiguous()
    count, length = _INT(len(layers)), _LONG(len(x))
    last = layers[-1]
    out = torch.empty(
        _made().jukebox_codec_length(layers, count, length), last.conv[last.residual].out
    )
    threads = _INT(torch.get_num_threads())
    _made().jukebox_codec_run(
        layers, count, _POINTER(x.data_ptr()), length, _POINTER(out.data_ptr()), threads
    )
    return out


def two_nearest(codebook: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """As `codec.quantize.two_nearest`."""
    packed = _Packed(_made().jukebox_codec_lanes())
    # What fills up the last vector of entries must never be the nearest.
    weights = packed.weights(-2 * codebook[:, :, None], codebook.square().sum(1), torch.inf)
    return functools.partial(_find, packed, weights)


def _find(packed: "_Packed", entries: _Weights, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [P] and gaps [P]; `packed` holds what `entries` points to."""
    vectors = vectors.contiguous()
    codes, gaps = torch.empty(len(vectors), dtype=torch.int64), torch.empty(len(vectors))
    _made().jukebox_codec_nearest(
        ctypes.byref(entries),
        _POINTER(vectors.data_ptr()),
        _LONG(len(vectors)),
        _POINTER(codes.data_ptr()),
        _POINTER(gaps.data_ptr()),
        _INT(torch.get_num_threads()),
    )
    return codes, gaps


class _Packed:
    """Modules as C++ reads them, for vectors of so many lanes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._kept: list[Tensor] = []
        """Whatever pointers point to."""

    def layer(self, leaf: nn.Module) -> _Layer:
        """One of `_leaves`."""
        if isinstance(leaf, ResidualBlock):
            layer, pointwise = self._conv(leaf.dilated), self._conv(leaf.pointwise)
            layer.conv[1] = pointwise.conv[0]
            layer.residual, layer.scale = 1, leaf.scale
            return layer
        if isinstance(leaf, nn.ConvTranspose1d):
            return self._transposed(leaf)
        assert isinstance(leaf, nn.Conv1d)
        return self._conv(leaf)

    def weights(self, weight: Tensor, bias: Tensor | None, padding: float = 0.0) -> _Weights:
        """A convolution's [V, W, K] and [V]; `padding` is the bias of what fills up vectors."""
        out, in_, taps = weight.shape
        size = -(-out // self.lanes) * self.lanes
        told = weight.new_full((size,), padding)
        told[:out] = 0 if bias is None else bias.detach()
        laid = weight.new_zeros(taps, in_, size)
        laid[..., :out] = weight.detach().permute(2, 1, 0)
        pairs = torch.cat([pair.flatten() for pair in laid.split(PAIR * self.lanes, dim=2)])
        self._kept += [told, pairs]
        return _Weights(pairs.data_ptr(), told.data_ptr(), in_, out, taps)

    def _conv(self, conv: nn.Conv1d) -> _Layer:
        assert not isinstance(conv.padding, str)
        return _Layer(
            conv=(self.weights(conv.weight, conv.bias),),
            dilation=conv.dilation[0],
            stride=conv.stride[0],
            padding=conv.padding[0],
            phases=1,
        )

    def _transposed(self, conv: nn.ConvTranspose1d) -> _Layer:
        """Output 2t + f sums inputs t + f - 1 and t + f, times taps 3 - f and 1 - f."""
        weight = conv.weight.detach().transpose(0, 1)
        phases = (self.weights(weight[..., [3 - f, 1 - f]], conv.bias) for f in range(2))
        return _Layer(conv=tuple(phases), dilation=1, stride=1, padding=1, phases=2)


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The residual blocks and convolutions of a tree, one after the other.

    Raises:
        Unsupported: there is no C++ for one of them.
    """
    if isinstance(module, ResidualBlock):
        _require_plain(module.dilated)
        _require_plain(module.pointwise)
        yield module
    elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        _require_plain(module)
        yield module
    elif isinstance(module, nn.Sequential | ResidualStack):
        for part in module.children():
            yield from _leaves(part)
    else:
        raise Unsupported(f"it does not compute a {type(module).__name__}")


def _require_plain(conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
    where, dtype = conv.weight.device.type, conv.weight.dtype
    if where != "cpu" or dtype != torch.float32:
        raise Unsupported(f"it computes float32 on a CPU, and the codec is {dtype} on {where}")
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    if isinstance(conv, nn.ConvTranspose1d):
        shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.output_padding)
        plain = plain and shape == ((4,), (2,), (1,), (1,), (0,))
    if not plain:
        raise Unsupported(f"it does not compute {conv}")
