"""What the toolkit expects of a command: `--help` at once, and one line for bad input."""

import subprocess
import sys
from collections.abc import Sequence
from typing import ClassVar

import pytest

from plugins import cli, registry
from plugins.ground.command import BAD_INPUT, Command
from plugins.testing.contract import Contract, is_line

HEAVY = ("torch", "datasets", "pyarrow", "soundfile", "accelerate", "matplotlib")


class CommandContract(Contract):
    """A subclass of `Command`."""

    group = registry.COMMANDS
    wrong: ClassVar[Sequence[Sequence[str]]] = ()
    """Further command lines that are bad input, as words behind the command's name."""

    def test_help_answers_at_once(self) -> None:
        """By `jukebox NAME --help`: a command imports nothing heavy before it works."""
        program = (
            "import sys\n"
            "from plugins.cli import main\n"
            "try: main(sys.argv[1:])\n"
            f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
        )
        run = subprocess.run(
            [sys.executable, "-c", program, self.name, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(f"usage: jukebox {self.name} ")
        assert run.stderr == "[]\n"

    def test_help_explains_every_option(self) -> None:
        """The first line of the docstring stands in the list that `jukebox` prints."""
        command: type[Command] = self.plugin
        assert is_line((command.__doc__ or "").strip().partition("\n")[0])
        for name, option in command.model_fields.items():
            assert option.description, f"--{name.replace('_', '-')} has no description"

    def test_bad_input_is_one_line_and_status_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An option that there is not, a config file that there is not, and those of `wrong`."""
        lines = [["--no-such-option", "1"], ["--config", "no/such/file.toml"], *self.wrong]
        for words in lines:
            with pytest.raises(SystemExit) as ended:
                cli.main([self.name, *words])
            said = capsys.readouterr()
            assert ended.value.code == BAD_INPUT, words
            assert said.out == ""
            assert said.err.startswith("error: ")
            assert said.err.count("\n") == 1
