"""`python -m codec.train`: a codec from a folder of music."""

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command
from plugins.ground.options import TrainingOptions


class TrainCodec(TrainingOptions, Command):
    """Train a codec (a VQ-VAE unless another is named) on music.

    Killed and started again with the same options, it goes on from the last saved state and ends
    with the same model.
    """

    audio: CliPositionalArg[list[str]] = Field(description="files, folders or globs")
    out: Path = Field(description="folder for the codec")
    codec: str = Field("vqvae", description="registry name of the codec")
    preset: str | None = Field(
        None,
        description="one of the codec's presets (vqvae has jukebox, small and tiny); None: small, "
        "or the defaults of a codec that has no such preset",
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings over the preset's: --set width=64"
    )
    held_out: list[str] = Field(
        default_factory=list, description="ids (patterns) of tracks that are only evaluated on"
    )
    clip_seconds: float = Field(1.0, gt=0, le=3600, description="length of a training clip")
    shift: bool = Field(True, description="start clips anywhere in a track")
    blend: bool = Field(True, description="mix channels with random weights")

    def cli_cmd(self) -> None:
        """Train."""
        from codec.training import train_codec

        train_codec(
            self.audio,
            self.out,
            codec=self.codec,
            preset=self.preset,
            set=self.set,
            held_out=self.held_out,
            clip_seconds=self.clip_seconds,
            shift=self.shift,
            blend=self.blend,
            options=self,
        )


if __name__ == "__main__":
    TrainCodec.main()
