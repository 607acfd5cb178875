"""Encoders and decoders: residual stacks between changes of rate by 2 (paper appendix B.1).

It knows neither codebooks nor losses. Shapes: B batch, C channels, W width of what comes in or
goes out, T positions, n halvings.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from codec.resnet import ResidualConfig, ResidualStack

__all__ = ["Decoder", "DecoderBlock", "Encoder", "EncoderBlock"]


class EncoderBlock(nn.Sequential):
    """Halves the rate n times: [B, in_width, T] -> [B, out_width, T // 2^n].

    Args:
        in_width: channels that come in.
        out_width: channels that go out.
        halvings: n; each is a strided convolution, then a residual stack.
        residual: the stacks, and the width between them.
    """

    def __init__(
        self, in_width: int, out_width: int, halvings: int, residual: ResidualConfig
    ) -> None:
        width = residual.width
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(halvings):
            layers[f"halve_{i}"] = nn.Conv1d(width if i else in_width, width, 4, 2, 1)
            layers[f"residual_{i}"] = ResidualStack(residual)
        layers["conv_out"] = nn.Conv1d(width, out_width, 3, padding=1)
        super().__init__(layers)


class DecoderBlock(nn.Sequential):
    """Doubles the rate n times: [B, in_width, T] -> [B, out_width, T x 2^n].

    Also the network of the upsamplers' conditioner, whose last transposed convolution goes
    straight to the prior's width.

    Args:
        in_width: channels that come in.
        out_width: channels that go out.
        doublings: n; each is a residual stack, then a transposed convolution.
        residual: the stacks, and the width between them.
    """

    def __init__(
        self, in_width: int, out_width: int, doublings: int, residual: ResidualConfig
    ) -> None:
        width = residual.width
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv_in"] = nn.Conv1d(in_width, width, 3, padding=1)
        for i in range(doublings):
            out = width if i < doublings - 1 else out_width
            layers[f"residual_{i}"] = ResidualStack(residual)
            layers[f"double_{i}"] = nn.ConvTranspose1d(width, out, 4, 2, 1)
        super().__init__(layers)


class Encoder(nn.Sequential):
    """One level's encoder: [B, C, T] -> [B, W, T // hop]; a block for every level up to its own.

    Args:
        channels: C.
        width: W, the codebook's.
        halvings: of every block, finest level first.
        residual: the stacks of all blocks.
    """

    def __init__(
        self, channels: int, width: int, halvings: Sequence[int], residual: ResidualConfig
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, count in enumerate(halvings):
            layers[f"block_{i}"] = EncoderBlock(width if i else channels, width, count, residual)
        super().__init__(layers)


class Decoder(nn.Sequential):
    """One level's decoder: [B, W, N] -> [B, C, N x hop]; the encoder's blocks turned round.

    Args:
        channels: C.
        width: W, the codebook's.
        halvings: of every block, finest level first, as for the encoder.
        residual: the stacks of all blocks.
    """

    def __init__(
        self, channels: int, width: int, halvings: Sequence[int], residual: ResidualConfig
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, count in reversed(list(enumerate(halvings))):
            layers[f"block_{i}"] = DecoderBlock(width, width, count, residual)
        layers["conv_out"] = nn.Conv1d(width, channels, 3, padding=1)
        super().__init__(layers)
