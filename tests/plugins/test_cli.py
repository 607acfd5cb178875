"""`jukebox` as a process: the overview, a command by name, unknown and broken ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugins import registry

ROOT = Path(__file__).parents[2]

COMMANDS = '''
from pydantic import Field
from plugins.ground.command import Command
from plugins.ground.errors import InputError

class Shout(Command):
    """Say a word loudly.

    More about it.
    """
    word: str = Field(description="the word")
    def cli_cmd(self):
        if not self.word.isalpha():
            raise InputError(f"{self.word} is no word: use letters")
        print(self.word.upper())

def function():
    """No command."""
'''

ENTRY_POINTS = """
[jukebox.commands]
shout = stranger_commands:Shout
function = stranger_commands:function
wreck = stranger_wreck:Wreck

[jukebox.codecs]
wrecked-codec = stranger_wreck:Codec
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the path, with somebody's distribution in it."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "stranger_kit-2.5.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "stranger_commands.py").write_text(COMMANDS)
    (folder / "stranger_wreck.py").write_text("raise RuntimeError('all is lost')")
    return folder


def python(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(path or "")},
    )


def jukebox(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    return python("-m", "plugins.cli", *words, path=path)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_lists_every_command_with_its_first_line(stranger, words):
    done = jukebox(*words, path=stranger)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = {
        line.split(maxsplit=1)[0]: line for line in done.stdout.splitlines() if line[:2] == "  "
    }
    assert set(lines) >= {"shout", "wreck", *registry.plugins(registry.COMMANDS)}
    assert lines["shout"].endswith(" Say a word loudly.")
    assert "More about it" not in done.stdout
    assert lines["plugins"].split(maxsplit=1)[1].startswith("List the plugins")
    assert "can't be loaded from stranger-kit" in lines["wreck"]


def test_every_command_of_ours_has_a_line_and_none_imports_anything_heavy():
    program = (
        "import sys; from plugins.cli import overview; print(overview());"
        "print('heavy:', sorted({'torch', 'datasets', 'pyarrow', 'soundfile', 'accelerate',"
        "'matplotlib', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "can't be loaded" not in done.stdout
    for name in registry.plugins(registry.COMMANDS):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"  {name} "))
        assert line.rstrip().endswith(".")


def test_a_command_runs_with_its_options(stranger):
    done = jukebox("shout", "--word", "hello", path=stranger)
    assert (done.returncode, done.stdout, done.stderr) == (0, "HELLO\n", "")


def test_the_help_of_a_command_names_it_as_it_was_called(stranger):
    done = jukebox("shout", "--help", path=stranger)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: jukebox shout ")
    assert "More about it." in done.stdout


def test_bad_input_of_a_command_ends_in_one_line(stranger):
    done = jukebox("shout", "--word", "4x", path=stranger)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 4x is no word: use letters\n"


def test_an_unknown_command_gets_the_nearest_names():
    done = jukebox("tokenise", "music")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no command 'tokenise': did you mean tokenize?")


def test_a_command_unlike_any_other_gets_the_whole_list():
    done = jukebox("--frobnicate")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command '--frobnicate': there are: ")
    assert all(name in done.stderr for name in registry.plugins(registry.COMMANDS))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wreck", "all is lost"),
        ("function", "must be a subclass of plugins.ground.command.Command"),
    ],
)
def test_a_broken_command_names_its_distribution(stranger, name, reason):
    done = jukebox(name, path=stranger)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "stranger-kit 2.5" in done.stderr
    assert reason in done.stderr


def test_a_command_that_two_offer_is_refused_with_both(stranger, tmp_path):
    info = tmp_path / "rival_kit-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[jukebox.commands]\nshout = a:b\n")
    done = jukebox("shout", "--word", "x", path=f"{stranger}{os.pathsep}{tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: two plugins are named 'shout' in jukebox.commands: of stranger-kit and rival-kit; "
        "uninstall one of them\n"
    )


@pytest.mark.parametrize("text", [b"[other.group]\nno equals sign\n", b"\xff\xfe"])
def test_a_malformed_file_and_a_command_without_a_docstring(tmp_path: Path, text: bytes) -> None:
    files = {"bad-1": text, "mute-1": b"[jukebox.commands]\nmute = mute_command:Mute\n"}
    for name, content in files.items():
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "entry_points.txt").write_bytes(content)
    (tmp_path / "mute_command.py").write_text(
        "from plugins.ground.command import Command\nclass Mute(Command):\n"
        "    def cli_cmd(self):\n        pass\n"
    )
    env = {name: value for name, value in os.environ.items() if "PYDANTIC" not in name}
    run = subprocess.run(
        [sys.executable, "-m", "plugins.cli"],
        capture_output=True,
        text=True,
        check=False,
        env={**env, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert run.returncode == 0, run.stderr
    assert "mute" in [line.strip() for line in run.stdout.splitlines()]
