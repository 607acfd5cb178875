"""Commands that keep their contract, and others that break it: see `mutants.py`."""

from pydantic import Field

from plugins.ground.command import Command
from plugins.ground.errors import InputError


class Polite(Command):
    """Say a word.

    It keeps the contract.
    """

    word: str = Field("hello", description="the word")

    def cli_cmd(self):
        if not self.word.isalpha():
            raise InputError(f"{self.word} is no word: use letters")


class Curt(Polite):
    """Say a word."""

    times: int = 1


class Bare(Polite):
    def cli_cmd(self):
        print("to the wrong stream")
        raise SystemExit(1)
