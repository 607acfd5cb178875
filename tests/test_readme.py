"""Every command and the Python example of the README, as a newcomer would type them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
# Options may come from the environment, so the commands stay as they stand and still end soon.
SONGS = {
    "apex": "maxstack-apex-aleph",
    "fear": "obsidian-shell-fear",
    "birth": "obsidian-shell-second-birth",
}
BRIEF = {"JUKEBOX_STEPS": "3", "JUKEBOX_SECONDS": "1", "JUKEBOX_BATCH_SIZE": "2"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some music of one's own."""
    folder = tmp_path_factory.mktemp("home")
    music = folder / "my-music"
    music.mkdir()
    for name, source in SONGS.items():
        shutil.copy(ROOT / "examples" / "music" / f"{source}.ogg", music / f"{name}.ogg")
    (music / "fear.txt").write_text("Words that are not sung\nbut stand beside it\n", "utf-8")
    return folder


def test_every_command_of_the_readme(home: Path) -> None:
    assert len(COMMANDS) >= 9
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in COMMANDS:
        run = subprocess.run(
            shlex.split(command),
            cwd=home,
            env={**os.environ, **BRIEF, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{command}\n{run.stderr}"
    assert (home / "fear-continued.wav").stat().st_size > 1_000_000
    assert list((home / "songs").glob("*.wav"))


def test_the_python_of_the_readme(home: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(program.splitlines()) <= 16
    brief = program.replace("steps=300", "steps=3, batch_size=2").replace("seconds=6", "seconds=1")
    assert brief != program
    run = subprocess.run(
        [sys.executable, "-c", brief], cwd=home, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert ".wav" in run.stdout
    assert list((home / "lib" / "songs").glob("*.wav"))
