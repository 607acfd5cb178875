"""The seam between codecs and everyone else: audio to codes and back.

It knows tiles and streams, not networks. Shapes:
B batch, C channels, T samples, N codes of a stream (T // hop), n any number of samples.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeGuard

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from codec.tiles import Tile, Tiling
from codec.tokens import TokenSpec, TokenStream
from plugins import registry
from plugins.ground.errors import InputError

CHECKED = 1 << 20
"""Codes that are looked at at a time."""


class Codec(nn.Module, ABC):
    """Turns audio into streams of codes and codes into audio.

    A codec says how it may be cut (`tiling`) and codes one tile at a time (`encode_tile`,
    `decode_tile`); this class walks long audio in those tiles, one item and one tile after the
    other, so that neither batch nor chunking can change a code and memory stays bounded. It is
    built from its config alone: `cls(config)`.
    """

    Config: ClassVar[type[BaseModel]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings by preset's name, over the defaults of `Config`."""
    config: Any
    spec: TokenSpec
    """Of this config; `fingerprint` is "" until the codec was loaded from or saved to a folder."""

    @property
    @abstractmethod
    def tiling(self) -> Tiling:
        """Where audio may be cut: anchored at sample 0, with the network's halo to each side."""

    @abstractmethod
    def encode_tile(self, audio: Tensor) -> dict[str, Tensor]:
        """One stretch of audio [1, C, T] -> {stream: codes [1, T // hop] int64}, in one pass."""

    @abstractmethod
    def decode_tile(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Codes of one stretch {stream: [1, N]} -> audio [1, C, N x hop], in one pass."""

    @abstractmethod
    def training_step(self, audio: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Audio [B, C, T] -> scalar loss and named scalar metrics; may update codebooks.

        In evaluation mode it changes nothing.
        """

    def use_engine(self, name: str) -> None:
        """Compute by the engine of that name from now on, as `--engine` of commands.

        Engines differ in speed, and in what they give by rounding. "auto" takes the fastest that
        can serve; a codec that has no choice does nothing by "auto" and "eager".

        Raises:
            InputError: it has no such engine, or that can't serve here; says why.
        """
        if name not in ("auto", "eager"):
            raise InputError(f"codec {self.spec.codec!r} has no engine {name!r}: take 'auto'")

    @property
    def any_threads(self) -> bool:
        """Whether codes are the same on any number of threads, to the last one."""
        return False

    def prepare_training(self, clips: Iterable[Tensor]) -> None:
        """Look at some clips [C, T], on the CPU, of the training set before the first step."""
        return

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where codes and audio come out."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def encode(self, audio: Tensor) -> dict[str, Tensor]:
        """Code audio of any length in bounded memory.

        Args:
            audio: [B, C, T] float, full scale at 1, on any device.

        Returns:
            {stream: [B, T // hop] int64}. Against one naive pass over the whole, a code may
            differ only where the two nearest entries are closer than rounding.

        Raises:
            InputError: the shape is not [B, C, T] with this codec's C.
        """
        if audio.ndim != 3:
            raise InputError(f"audio must be [batch, channels, samples], not {list(audio.shape)}")
        items = [self.encode_blocks([item]) for item in audio]
        if not items:
            empty = torch.zeros(0, 0, dtype=torch.long, device=self.device)
            return {stream.name: empty for stream in self.spec.streams}
        return {s.name: torch.stack([item[s.name] for item in items]) for s in self.spec.streams}

    def encode_blocks(self, blocks: Iterable[Tensor]) -> dict[str, Tensor]:
        """Code audio that arrives in blocks, keeping only what the next tile needs.

        Args:
            blocks: [C, n] each, in order, n free to vary.

        Returns:
            {stream: [N] int64}, those that `encode` gives for all blocks joined, bit for bit.

        Raises:
            InputError: a block's shape is not [C, n].
        """
        nothing = torch.zeros(0, dtype=torch.long, device=self.device)
        parts: dict[str, list[Tensor]] = {stream.name: [nothing] for stream in self.spec.streams}
        for codes in self.encode_stream(blocks):
            for name, part in codes.items():
                parts[name].append(part)
        # Joined outside of inference mode, so that codes may enter a graph later.
        return {name: torch.cat(codes) for name, codes in parts.items()}

    def encode_stream(self, blocks: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """As `encode_blocks`, giving the codes of each tile as soon as it is coded, so that whoever
        keeps them decides how.

        Yields:
            {stream: [n] int64}; joined they are what `encode_blocks` gives.
        """
        for tile, audio in self._cut(blocks):
            with torch.inference_mode():
                codes = self._encoded(audio[None].to(self.device, torch.float32))
            part = {}
            for stream in self.spec.streams:
                first = (tile.start - tile.left) // stream.hop_length
                count = tile.stop // stream.hop_length - tile.start // stream.hop_length
                part[stream.name] = codes[stream.name][0, first : first + count]
            yield part

    def _cut(self, blocks: Iterable[Tensor]) -> Iterator[tuple[Tile, Tensor]]:
        """Tiles and what they see, [C, right - left], as soon as enough blocks have come."""
        tiling, channels = self.tiling, self.spec.channels
        held: list[Tensor] = []
        origin = total = 0
        tile = tiling.tile(0)
        for block in blocks:
            if block.ndim != 2 or block.shape[0] != channels:
                raise InputError(
                    f"this codec codes {channels} channels: audio must be "
                    f"[{channels}, samples], not {list(block.shape)}"
                )
            held.append(block)
            total += block.shape[1]
            while total >= tile.right:
                whole = _join(held)
                yield tile, _stretch(whole, tile, origin)
                tile = tiling.tile(tile.stop)
                held, origin = [whole[:, tile.left - origin :]], tile.left
        for last in tiling.tiles(total, tile.start):
            yield last, _stretch(_join(held), last, origin)

    def decode(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Audio of codes.

        Args:
            codes: {stream: [B, N] integers}, one stream or several.

        Returns:
            [B, C, N x hop] float32; the finest stream given says how long.

        Raises:
            InputError: no codes, an unknown stream, or codes outside of the codebook.
        """
        sizes = {tuple(stream.shape[:-1]) for stream in codes.values()}
        if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
            raise InputError("codes must be [batch, codes], of one batch size in every stream")
        items = [torch.zeros(0, self.spec.channels, 0, device=self.device)]
        for b in range(sizes.pop()[0] if sizes else 1):
            tiles = self.decode_blocks({name: stream[b] for name, stream in codes.items()})
            nothing = torch.zeros(self.spec.channels, 0, device=self.device)
            items.append(torch.cat([nothing, *tiles], dim=1)[None])
        return torch.cat(items[1:] or items)

    def decode_blocks(self, codes: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Audio of codes, tile by tile, in bounded memory.

        Args:
            codes: {stream: [N] integers}, one stream or several.

        Yields:
            [C, n] float32; joined they are what `decode` gives, bit for bit.

        Raises:
            InputError: no codes, an unknown stream, or codes outside of the codebook.
        """
        self._check(codes)
        finest = next(stream for stream in self.spec.streams if stream.name in codes)
        for tile in self.tiling.tiles(len(codes[finest.name]) * finest.hop_length):
            seen = {}
            for name, stream in codes.items():
                hop = self.spec.stream(name).hop_length
                part = stream[None, tile.left // hop : tile.right // hop]
                seen[name] = part.to(self.device, torch.long)
            with torch.inference_mode():
                audio = self._decoded(seen, finest)
            yield audio[0, :, tile.start - tile.left : tile.stop - tile.left].clone()

    def _encoded(self, audio: Tensor) -> Mapping[str, Tensor]:
        """`encode_tile`, held to its word: with fewer codes all that follow would drift."""
        with registry.blaming(type(self), "encode audio"):
            codes = self.encode_tile(audio)
            if not isinstance(codes, Mapping):
                raise TypeError(f"encode_tile gave a {type(codes).__name__}, not codes by stream")
            for stream in self.spec.streams:
                shape = [1, audio.shape[-1] // stream.hop_length]
                found = codes.get(stream.name)
                if not _is(found, shape) or found.is_floating_point() or found.dtype == torch.bool:
                    raise ValueError(
                        f"encode_tile must give {shape} integers as stream {stream.name!r}, "
                        f"not {_described(found)}"
                    )
        return codes

    def _decoded(self, codes: Mapping[str, Tensor], finest: TokenStream) -> Tensor:
        """`decode_tile`, held to its word."""
        with registry.blaming(type(self), "decode codes"):
            audio = self.decode_tile(codes)
            shape = [1, self.spec.channels, codes[finest.name].shape[-1] * finest.hop_length]
            if not _is(audio, shape) or not audio.is_floating_point():
                raise ValueError(f"decode_tile must give {shape} floats, not {_described(audio)}")
        return audio

    def _check(self, codes: Mapping[str, Tensor]) -> None:
        """Refuse codes that are not this codec's, [N] integers of any width."""
        if not codes:
            raise InputError("no codes to decode: give at least one stream")
        for name, stream in codes.items():
            size = self.spec.stream(name).vocab_size
            for part in stream.split(CHECKED):
                wide = part.to(torch.long)  # narrow unsigned types compare nothing
                if wide.numel() and (int(wide.min()) < 0 or int(wide.max()) >= size):
                    raise InputError(
                        f"stream {name!r} holds codes outside of its codebook of {size}"
                    )


def _is(found: Any, shape: list[int]) -> TypeGuard[Tensor]:
    return isinstance(found, Tensor) and list(found.shape) == shape


def _described(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"{list(found.shape)} {found.dtype}"
    return "nothing" if found is None else f"a {type(found).__name__}"


def _join(held: list[Tensor]) -> Tensor:
    return held[0] if len(held) == 1 else torch.cat(held, dim=1)


def _stretch(whole: Tensor, tile: Tile, origin: int) -> Tensor:
    """What a tile sees; a copy, since where a tensor lies in memory may decide how it is summed."""
    return whole[:, tile.left - origin : tile.right - origin].clone()
