"""The codes of the stream above as positions: what makes an upsampler (paper section 4.1).

It knows codes as integers, not the codec that made them. Shapes:
B batch, T code positions, U codes of the stream above (T / ratio), D width of the prior.
"""

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from codec.encdec import DecoderBlock
from codec.resnet import ResidualConfig, ResidualStack
from conditioning.base import Condition, Conditioner, Provides, Site, Track, Window
from plugins.ground.errors import InputError

EMBEDDING_STD = 0.02


class UpperCodesConfig(BaseModel):
    """The network between the codes above and the prior; the defaults are the published shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(1024, ge=1)
    """Channels of the convolutions."""
    depth: int = Field(16, ge=1)
    """Residual blocks for each doubling of the rate; of all, where the rates are equal."""
    expansion: float = Field(1.0, gt=0)
    """Channels between the two convolutions of a residual block, over `width`."""
    dilation_growth: int = Field(3, ge=1)
    """Factor between the dilations of two blocks in a row."""
    dilation_cycle: int | None = Field(8, ge=1)
    """Dilations start again at 1 after so many blocks; None: never."""
    res_scale: bool = True
    """Residual branches are scaled by 1 / sqrt(depth)."""


class UpperCodes(Conditioner):
    """Codes above -> embedding -> dilated convolutions, upsampled to the code rate -> layer norm.

    Raises:
        InputError: there is no stream above, its hop is not 1, 2, 4, … times this stream's, or
            the context is no whole number of its codes.
    """

    Config = UpperCodesConfig
    reads = ()
    config: UpperCodesConfig

    def __init__(self, config: UpperCodesConfig, site: Site) -> None:
        super().__init__(config, site)
        if site.upper is None:
            raise InputError(
                f"stream {site.stream.name!r} has no stream above it: its prior can't be told "
                f"upper codes; leave that conditioner out"
            )
        self.upper = site.upper
        self.ratio = _ratio(site)
        self.embedding = nn.Embedding(self.upper.vocab_size, site.width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        residual = ResidualConfig(
            width=config.width,
            depth=config.depth,
            expansion=config.expansion,
            dilation_growth=config.dilation_growth,
            dilation_cycle=config.dilation_cycle,
            scaled=config.res_scale,
        )
        self.network = _network(site.width, self.ratio.bit_length() - 1, residual)
        self.norm = nn.LayerNorm(site.width)

    @property
    def provides(self) -> Provides:
        """Positions."""
        return Provides(position=True)

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """`codes` above the window, [U] int64.

        Where the track ends before the window does, its last code is repeated (0 if it has none).

        Raises:
            InputError: the track lacks codes of the stream above, or the window starts between
                two of them.
        """
        start, length = window.start // self.ratio, self.site.context // self.ratio
        if window.start % self.ratio:
            raise InputError(
                f"a window of stream {self.site.stream.name!r} starts at code {window.start}, "
                f"which is no multiple of {self.ratio}"
            )
        whole = track.get(f"codes_{self.upper.name}")
        if whole is None:
            raise InputError(
                f"track {track.get('id', '')!r} has no codes_{self.upper.name}: a prior of stream "
                f"{self.site.stream.name!r} is told the codes of stream {self.upper.name!r}"
            )
        codes = np.asarray(whole[start : start + length], np.int64)
        last = int(whole[-1]) if len(whole) else 0
        padded = np.pad(codes, (0, length - len(codes)), constant_values=last)
        return {"codes": torch.from_numpy(padded)}

    def forward(self, batch: Mapping[str, Tensor]) -> Condition:
        """Codes [B, U] -> position [B, T, D]."""
        embedded = self.embedding(batch["codes"])  # [B, U, D]
        upsampled = self.network(embedded.mT).mT  # [B, T, D]
        return Condition(position=self.norm(upsampled))


def _network(width: int, doublings: int, residual: ResidualConfig) -> nn.Module:
    """[B, D, U] -> [B, D, T], for D = `width`. Without doublings, as between the codebooks of a
    residual quantiser, a stack of one rate.
    """
    if doublings:
        return DecoderBlock(width, width, doublings, residual)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv_in"] = nn.Conv1d(width, residual.width, 3, padding=1)
    layers["residual_0"] = ResidualStack(residual)
    layers["conv_out"] = nn.Conv1d(residual.width, width, 3, padding=1)
    return nn.Sequential(layers)


def _ratio(site: Site) -> int:
    """Codes of the site's stream for each one above."""
    assert site.upper is not None
    ratio, rest = divmod(site.upper.hop_length, site.stream.hop_length)
    if rest or ratio < 1 or ratio & (ratio - 1):
        raise InputError(
            f"upper codes need a hop of 1, 2, 4, … times {site.stream.hop_length} (stream "
            f"{site.stream.name!r}), but stream {site.upper.name!r} has {site.upper.hop_length}"
        )
    if site.context % ratio:
        raise InputError(
            f"a context of {site.context} codes is no whole number of codes of stream "
            f"{site.upper.name!r}: choose a multiple of {ratio}"
        )
    return ratio
