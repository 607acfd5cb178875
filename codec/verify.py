"""`python -m codec.verify`: are all codes of a token corpus there, and are they sound?"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command
from plugins.ground.errors import InputError


class VerifyCorpus(Command):
    """Look at every shard of a token corpus: checksums, rows, columns, codes, ids.

    Each shard that is damaged is named with the reason, and the exit status is then 2. With a
    codec, its codes must be that codec's. Memory holds one row group at a time.
    """

    corpus: CliPositionalArg[Path] = Field(description="folder of the token corpus")
    codec: Path | None = Field(None, description="folder of the codec that it must be of")
    model: Path | None = Field(None, description="model folder, to take its codec")
    drop: bool = Field(
        False,
        description="go on without damaged shards; their files are kept as NAME.damaged, and the "
        "command that made the corpus makes their tracks again",
    )

    def cli_cmd(self) -> None:
        """Print a line for each damaged shard, and what was looked at."""
        from codec.verifying import verify_corpus

        spec = None
        if self.codec is not None or self.model is not None:
            from codec.checkpoint import read_spec
            from plugins.ground.model import chosen_codec

            spec = read_spec(chosen_codec(self.codec, self.model))
        found, damaged = verify_corpus(self.corpus, spec, drop=self.drop)
        for reason in damaged:
            print(reason)
        total = len(found.manifest.shards)
        print(
            f"{total - len(damaged)} of {total} shards in {self.corpus} are sound: "
            f"{found.tracks:,} tracks, {found.codes:,} codes"
        )
        if damaged and self.drop:
            raise InputError(
                f"{len(damaged)} damaged shards were taken out of {self.corpus}: run the command "
                "that made it again to make their tracks anew"
            )
        if damaged:
            raise InputError(
                f"{len(damaged)} of {total} shards in {self.corpus} are damaged: restore them, or "
                "give --drop and run the command that made the corpus again"
            )


if __name__ == "__main__":
    VerifyCorpus.main()
