"""`jukebox code-usage`: how much of its codebooks a corpus uses."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command


class CodeUsage(Command):
    """Count the codes of a token corpus: how many of each codebook it uses, and how evenly.

    A stream with far fewer bits a code than its codebook could hold has a codebook that is too
    large for this music, or one that collapsed.
    """

    corpus: CliPositionalArg[Path] = Field(description="token corpus")

    def cli_cmd(self) -> None:
        """Count."""
        from jukebox_example.counting import code_usage

        for usage in code_usage(self.corpus):
            print(
                f"stream {usage.stream}: {usage.codes:,} codes, {usage.used} of "
                f"{usage.codebook} in use, {usage.bits:.2f} of {usage.most_bits:.2f} bits a code"
            )


if __name__ == "__main__":
    CodeUsage.main()
