"""Every command as a process: options, environment, config file, bad input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = '''
from pathlib import Path
from pydantic import Field
from pydantic_settings import CliPositionalArg
from plugins.ground.command import Command
from plugins.ground.errors import InputError

class Greet(Command):
    """Greet people."""
    names: CliPositionalArg[list[str]] = Field(description="whom")
    n_times: int = Field(1, ge=1, description="how often")
    set: dict[str, str] = Field(default_factory=dict, description="settings")
    def cli_cmd(self):
        if "nobody" in self.names:
            raise InputError("nobody is nobody:\\nname somebody")
        print(self.names, self.n_times, self.set)

Greet.main()
'''


def greet(tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "greet.py"
    program.write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, str(program), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_options_environment_and_config_in_this_order(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('n-times = 5\n[set]\na = "1"\n')
    assert greet(tmp_path, "x", "y").stdout == "['x', 'y'] 1 {}\n"
    given = ["x", "--config", str(config)]
    assert greet(tmp_path, *given).stdout == "['x'] 5 {'a': '1'}\n"
    assert greet(tmp_path, *given, JUKEBOX_N_TIMES="4").stdout == "['x'] 4 {'a': '1'}\n"
    run = greet(tmp_path, *given, "--n-times", "3", JUKEBOX_N_TIMES="4")
    assert run.stdout == "['x'] 3 {'a': '1'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required"),
        (["x", "--n-times", "0"], "--n-times: Input should be greater than or equal to 1, not '0'"),
        (["x", "--n-times", "many"], "--n-times: Input should be a valid integer"),
        (["x", "--bogus", "1"], "unrecognized arguments: --bogus 1"),
        (["x", "--config", "/nowhere.toml"], "can't read config /nowhere.toml"),
        (["nobody"], "nobody is nobody: name somebody"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(
    tmp_path: Path, words: list[str], message: str
) -> None:
    run = greet(tmp_path, *words)
    assert run.returncode == 2
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_unknown_options_in_a_config_file_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"ntimes": 3}')
    run = greet(tmp_path, "x", "--config", str(config))
    assert (run.returncode, run.stderr) == (2, "error: --ntimes is no option: see --help\n")


def test_help_shows_description_and_defaults(tmp_path: Path) -> None:
    run = greet(tmp_path, "--help")
    assert run.returncode == 0
    assert "Greet people." in run.stdout
    assert "how often (default: 1)" in run.stdout


def test_settings_with_commas(tmp_path: Path) -> None:
    run = greet(tmp_path, "x", "--set", "a=[1,2]")
    assert run.returncode == 2
    assert "needs JSON" in run.stderr
    assert greet(tmp_path, "x", "--set", '{"a": "1,2"}').stdout == "['x'] 1 {'a': '1,2'}\n"


def test_the_config_option_of_another_program_is_its_own(tmp_path: Path) -> None:
    program = PROGRAM.replace("Greet.main()", "print(Greet(names=['x'], n_times=2).n_times)")
    (tmp_path / "other.py").write_text(program)
    run = subprocess.run(
        [sys.executable, str(tmp_path / "other.py"), "--config", "/nowhere.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "2\n"), run.stderr


HUNGRY = '''
import sys
from pydantic import Field
from plugins.ground.command import Command

class Hungry(Command):
    """Take far too much memory."""
    way: str = Field(description="by which library")
    batch_size: int = Field(8, description="items")
    def cli_cmd(self):
        if self.way == "python":
            [0] * (1 << 58)
        if self.way == "numpy":
            import numpy
            numpy.zeros(1 << 56)
        if self.way == "arrow":
            import pyarrow
            pyarrow.allocate_buffer(1 << 60)
        if self.way == "torch":
            import torch
            torch.empty(1 << 56)
        if self.way == "mistake":
            raise RuntimeError("something else")

Hungry.main()
'''


@pytest.mark.parametrize("way", ["python", "numpy", "arrow", "torch"])
def test_lack_of_memory_gets_one_line_with_advice(tmp_path: Path, way: str) -> None:
    program = tmp_path / "hungry.py"
    program.write_text(HUNGRY)
    words = [sys.executable, str(program), "--way", way]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    (said,) = run.stderr.splitlines()
    assert said.startswith("error: not enough memory (")
    assert "try a smaller --batch-size, ending other programs, or a larger machine" in said


def test_a_mistake_is_no_lack_of_memory(tmp_path: Path) -> None:
    program = tmp_path / "hungry.py"
    program.write_text(HUNGRY)
    words = [sys.executable, str(program), "--way", "mistake"]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "RuntimeError: something else" in run.stderr
