"""`jukebox continue SONG --model FOLDER`: tokenize, primed sampling and decoding in one go."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command


class Continue(Command):
    """Continue a recording.

    The parts (tokens, samples) stay in a hidden folder beside the output until it is finished, so
    that the same command goes on where it was cut off. Nothing that exists is overwritten.
    """

    song: CliPositionalArg[Path] = Field(description="audio file to continue")
    model: Path = Field(description="model folder: codec/ and prior_0/, prior_1/, ...")
    out: Path | None = Field(
        None, description="audio file to write (default: SONG-continued.wav, here)"
    )
    seconds: float = Field(30.0, gt=0, le=1e6, description="new music, in seconds")
    prompt_seconds: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="keep this much of the song's beginning (default: all of it)",
    )
    artist: str = Field("", description="artist that the priors know (default: the song's tag)")
    genre: str = Field("", description="genre that the priors know (default: the song's tag)")
    temperature: float = Field(0.98, gt=0, description="flattens or sharpens the choice")
    seed: int = Field(0, ge=0, lt=1 << 32, description="of all draws")
    device: str = Field("auto", description="auto, cpu, cuda or mps")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the priors' weights: half of float32's memory, other music"
    )
    int8: bool = Field(
        False, description="keep the priors' layers in 8 bits: less memory, faster, other music"
    )

    def cli_cmd(self) -> None:
        """Continue the song."""
        from plugins.continuation.work import continue_song

        print(continue_song(self))


if __name__ == "__main__":
    Continue.main()
