"""`python -m plugins.openai.verify`: do converted weights compute what the reference computes?"""

import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command


class Verify(Command):
    """Compare converted checkpoints with what the reference computes from them.

    The folder holds golden cases: checkpoints in the published format, `NAME.pth.tar`, and what
    the reference makes of them, `NAME_expected.npz`. Every checkpoint is converted and every
    array computed again. The exit status is 1 if one of them differs by more than rounding.
    """

    cases: CliPositionalArg[Path] = Field(description="folder of golden cases")

    def cli_cmd(self) -> None:
        """Print a row for each comparison."""
        from plugins.openai.verifying import show, verify

        rows = verify(self.cases)
        show(rows)
        if not all(row.passed for row in rows):
            sys.exit(1)


if __name__ == "__main__":
    Verify.main()
