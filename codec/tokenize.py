"""`python -m codec.tokenize`: audio files into a token corpus."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from codec.config import EngineName
from plugins.ground.command import Command

SHOWN = 10
"""How many skipped files are listed."""


class Tokenize(Command):
    """Turn audio files into a token corpus with a codec.

    Files that can't be used are skipped and listed with the reason. Killed and started again with
    the same options, it goes on after the last shard and ends with the same corpus; files that
    came since are added.
    """

    audio: CliPositionalArg[list[str]] = Field(description="files, folders or globs")
    codec: Path | None = Field(None, description="folder of the codec")
    model: Path | None = Field(None, description="model folder, to take its codec")
    out: Path = Field(description="folder for the token corpus")
    workers: int = Field(1, ge=1, description="processes or actors, one core each")
    shard_tracks: int = Field(64, ge=1, description="files for each shard of the corpus")
    device: str = Field("cpu", description="auto, cpu, cuda or mps")
    engine: Literal[EngineName, "ray"] = Field(
        "auto",
        description="how to compute: auto, eager or native; or ray, actors on the cluster of "
        "RAY_ADDRESS (or on this machine), each as auto",
    )

    def cli_cmd(self) -> None:
        """Tokenize."""
        from codec.tokenizing import tokenize_files
        from plugins.ground.model import chosen_codec

        corpus = tokenize_files(
            self.audio,
            chosen_codec(self.codec, self.model),
            self.out,
            workers=self.workers,
            shard_tracks=self.shard_tracks,
            device=self.device,
            engine=self.engine,
        )
        print(f"{len(corpus)} tracks in {self.out}, {len(corpus.skipped)} files skipped")
        for skipped in corpus.skipped[:SHOWN]:
            print(f"  {skipped.path}: {skipped.reason}")
        if len(corpus.skipped) > SHOWN:
            print(f"  and {len(corpus.skipped) - SHOWN} more, listed in corpus.json")


if __name__ == "__main__":
    Tokenize.main()
