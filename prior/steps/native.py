"""One-token steps in C++ on a CPU, near the speed of its memory: `native.cpp` for a prior.

Weights and caches stay where PyTorch keeps them; C++ is told where. It knows no patterns either:
what a query sees is a table of slots. Shapes: B batch, H heads, C slots, D width of a head,
N rows and K columns of a weight, V tokens, W width.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from conditioning.base import Condition
from plugins.ground import native
from prior.attention.cache import LayerCache, MemoryCache, slot_tables
from prior.config import PriorConfig
from prior.drawing import Drawing
from prior.int8 import Int8Linear
from prior.prior import Prior
from prior.steps.base import Caches, Steps, overflow
from prior.transformer import Attention, Layer, MemoryAttention

SOURCE = Path(__file__).with_suffix(".cpp")
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
SHARE = 65536
"""Weights of a layer for each thread at least: with fewer, threads wait more than they work."""
AT_ONCE = 64
"""Steps in one call, between which Python can be interrupted."""

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("numbers", "scale", "bias")),
        *((name, _INT) for name in ("rows", "columns", "kind")),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *(
            (f"{norm}_{part}", _POINTER)
            for norm in ("attention", "mlp")
            for part in ("gain", "bias")
        ),
        *((name, _Matrix) for name in ("query", "out", "up", "down")),
        *((name, _POINTER) for name in ("keys", "values", "slot", "start", "stop", "there")),
        ("slots", _INT),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *((name, _Matrix) for name in ("embedding", "positions", "head")),
        ("told", _POINTER),
        ("told_stride", _LONG),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
        *((name, _INT) for name in ("depth", "width", "heads", "head_width", "mlp_width")),
        *((name, _INT) for name in ("batch", "kind", "prefix", "told_output", "seen")),
    )


class _Drawing(ctypes.Structure):
    _fields_ = (("temperature", ctypes.c_double), ("top_p", ctypes.c_double), ("top_k", _INT))


def library() -> ctypes.CDLL | None:
    """What `native.cpp` was compiled to, or None with a warning."""
    made = native.load(SOURCE)
    if made is not None:
        made.jukebox_generate.restype = _LONG
        made.jukebox_step.restype = None
    return made


class NativeSteps(Steps):
    """Steps in C++; those of `run` without Python between them."""

    def __init__(self, prior: Prior, condition: Condition, caches: Caches, batch: int) -> None:
        super().__init__(prior, condition, caches, batch)
        made = library()
        assert made is not None  # `why_not` saw to that
        self._library = made
        self._kept: list[Any] = []
        """Whatever pointers point to."""
        self._model = self._described()
        size = (self._model.batch, self._model.head.rows)
        self._logits = torch.empty(size, dtype=torch.float32)

    @classmethod
    def why_not(cls, config: PriorConfig, device: torch.device, dtype: torch.dtype) -> str | None:
        """It serves priors in float32 or bfloat16 on a CPU, whose layers attend by kernels."""
        if device.type != "cpu":
            return f"it runs on a CPU, and the prior is on {device.type}"
        if dtype not in (torch.float32, torch.bfloat16):
            return f"it computes in float32 and bfloat16, not in {dtype}"
        if config.attention is not None:
            return f"layers attend with {config.attention.name!r}, which is their own"
        return None if library() else native.MISSING

    def begin(self) -> None:
        """See `Steps`: memories are there only now."""
        for layer, cache in zip(self._layers, self.caches, strict=True):
            if isinstance(cache, MemoryCache):
                assert cache.kept is not None  # the first pass came through here
                keys, values = (self._keep(part.contiguous()) for part in cache.kept)
                layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
                layer.slots = keys.shape[2]
                self._model.seen = max(self._model.seen, layer.slots)

    def step(self, tokens: Tensor, position: int) -> Tensor:
        """See `Steps`."""
        current = tokens.contiguous()
        self._library.jukebox_step(
            ctypes.byref(self._model),
            _POINTER(current.data_ptr()),
            _LONG(position),
            _POINTER(self._logits.data_ptr()),
            _INT(self._threads),
        )
        return self._logits.clone()

    def run(
        self, tokens: Tensor, position: int, uniforms: Tensor | None, drawing: Drawing, stop: int
    ) -> Iterator[Tensor]:
        """See `Steps`."""
        for start in range(position, stop, AT_ONCE):
            count = min(AT_ONCE, stop - start)
            chances = None
            if uniforms is not None:
                chances = uniforms[:, start - position :][:, :count].double().contiguous()
            drawn = self._generate(tokens, start, count, chances, drawing)
            yield from drawn.unbind(1)
            if drawn.shape[1] < count:
                raise overflow(self.prior.embedding.weight.dtype, start + drawn.shape[1])
            tokens = drawn[:, -1]

    def _generate(
        self, tokens: Tensor, start: int, count: int, uniforms: Tensor | None, drawing: Drawing
    ) -> Tensor:
        """Tokens [B, count] of the codes from `start` on; fewer where logits were not finite."""
        current = tokens.contiguous()
        drawn = torch.empty(len(tokens), count, dtype=torch.int64)
        made = self._library.jukebox_generate(
            ctypes.byref(self._model),
            _POINTER(current.data_ptr()),
            _LONG(start),
            _LONG(count),
            None if uniforms is None else _POINTER(uniforms.data_ptr()),
            _LONG(count),
            ctypes.byref(_Drawing(drawing.temperature, drawing.top_p, drawing.top_k)),
            _POINTER(self._logits.data_ptr()),
            _POINTER(drawn.data_ptr()),
            _INT(self._threads),
        )
        return drawn[:, :made]

    @property
    def _threads(self) -> int:
        first = self._layers[0]
        matrices = (first.query, first.out, first.up, first.down)
        weights = sum(matrix.rows * matrix.columns for matrix in matrices)
        return max(1, min(torch.get_num_threads(), weights // SHARE))

    def _described(self) -> _Model:
        """The prior as C++ sees it."""
        prior, told = self.prior, self.condition.position
        shape = prior.transformer.config
        layers = [cast(Layer, layer) for layer in prior.transformer.layers]
        pairs = zip(layers, self.caches, strict=True)
        self._layers = (_Layer * len(layers))(*(self._layer(*pair) for pair in pairs))
        seen = [layer.slots for layer in self._layers]
        head = (prior.output or prior.embedding).weight
        model = _Model(
            layers=self._layers,
            embedding=self._matrix(prior.embedding.weight),
            positions=self._matrix(prior.positions),
            head=self._matrix(head),
            scale=layers[0].scale,
            epsilon=layers[0].mlp_norm.eps,
            depth=len(layers),
            width=shape.width,
            heads=shape.heads,
            head_width=shape.attention_width // shape.heads,
            mlp_width=shape.mlp_width,
            batch=self.batch,
            kind=KINDS[head.dtype],
            prefix=prior.prefix,
            told_output=prior.config.condition_output,
            seen=max([1, *seen]),
        )
        if told is not None:
            told = self._keep(told.to(head.dtype).contiguous())
            model.told, model.told_stride = told.data_ptr(), told.shape[1] * told.shape[2]
        return model

    def _layer(self, layer: Layer, cache: LayerCache | MemoryCache) -> _Layer:
        """A layer and its cache; where a memory's lies, `begin` says."""
        attention, up, down = layer.attention, layer.mlp[0], layer.mlp[2]
        reads = isinstance(attention, MemoryAttention)
        query = attention.query if reads else cast(Attention, attention).qkv
        told = _Layer(
            attention_gain=self._floats(layer.attention_norm.weight),
            attention_bias=self._floats(layer.attention_norm.bias),
            mlp_gain=self._floats(layer.mlp_norm.weight),
            mlp_bias=self._floats(layer.mlp_norm.bias),
            query=self._linear(query),
            out=self._linear(attention.out),
            up=self._linear(up),
            down=self._linear(down),
        )
        if isinstance(cache, LayerCache):
            tables = self._keep(slot_tables(cache.pattern))
            told.slot, told.start, told.stop = (table.ctypes.data for table in tables)
            told.keys, told.values = cache.keys.data_ptr(), cache.values.data_ptr()
            told.slots = cache.keys.shape[2]
        elif (mask := self.condition.memory_mask) is not None:
            told.there = self._keep(mask.to(torch.uint8).contiguous()).data_ptr()
        return told

    def _linear(self, linear: Any) -> _Matrix:
        matrix = self._matrix(linear.weight)
        matrix.bias = self._floats(linear.bias)
        if isinstance(linear, Int8Linear):
            matrix.scale = self._floats(linear.scale)
        return matrix

    def _matrix(self, weight: Tensor) -> _Matrix:
        """A weight [N, K] where it lies."""
        kept = self._keep(weight.detach().contiguous())
        rows, columns = kept.shape
        return _Matrix(numbers=kept.data_ptr(), rows=rows, columns=columns, kind=KINDS[kept.dtype])

    def _floats(self, vector: Tensor) -> int:
        """Where a vector lies in float32."""
        return self._keep(vector.detach().float().contiguous()).data_ptr()

    def _keep(self, thing: Any) -> Any:
        self._kept.append(thing)
        return thing
