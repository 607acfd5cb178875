"""`python -m codec.decode`: a token corpus into audio files."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from codec.config import EngineName
from plugins.ground.command import Command


class Decode(Command):
    """Turn the tracks of a token corpus into audio files with the codec that made the codes.

    Each track's finest stream that covers the whole track is decoded; of samples that are still
    being made, the one that covers most. Started again, it decodes only what has changed.
    """

    corpus: CliPositionalArg[Path] = Field(description="folder of the token corpus")
    codec: Path | None = Field(None, description="folder of the codec")
    model: Path | None = Field(None, description="model folder, to take its codec")
    out: Path = Field(description="folder for the audio files")
    stream: str | None = Field(None, description="stream to decode; None: the finest whole one")
    format: Literal["wav", "flac", "ogg", "mp3", "opus"] = Field("wav", description="of the files")
    device: str = Field("auto", description="auto, cpu, cuda or mps")
    engine: EngineName = Field("auto", description="how to compute: auto, eager or native")

    def cli_cmd(self) -> None:
        """Decode."""
        from codec.decoding import decode_corpus
        from plugins.ground.model import chosen_codec

        files = decode_corpus(
            self.corpus,
            chosen_codec(self.codec, self.model),
            self.out,
            stream=self.stream,
            format=self.format,
            device=self.device,
            engine=self.engine,
        )
        print(f"{len(files)} files in {self.out}")


if __name__ == "__main__":
    Decode.main()
