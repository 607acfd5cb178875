"""docs/published-models.md from a checkpoint to a page, as a reader would type it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "published-models.md").read_text("utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if "verify" not in line  # has tests of its own
]
GOLDEN = ROOT / "tests" / "golden"
FILES = {
    "vqvae": "codec",
    "prior_level_0": "upsampler_0",
    "prior_level_1": "upsampler_1",
    "prior_level_2": "lyrics_single",
}
# The small models say themselves what they are, know artists by number, and have fewer layers.
INSTEAD = {
    " --model 1b_lyrics": "",
    "--artist 'the beatles' --genre pop": "--artist 7 --genre 3",
    "--layer 35": "--layer 3",
    "--dtype bfloat16": "--dtype float32",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for theirs, ours in FILES.items():
        shutil.copy(GOLDEN / f"{ours}.pth.tar", folder / f"{theirs}.pth.tar")
    music = folder / "my-music"
    music.mkdir()
    shutil.copy(ROOT / "examples" / "music" / "obsidian-shell-fear.ogg", music)
    (folder / "words.txt").write_text("Here is a song of many words\nand all of them are sung\n")
    return folder


def test_every_command_of_the_page(home: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = []
    for line in COMMANDS:
        command = shlex.join(shlex.split(line))
        for theirs, ours in INSTEAD.items():
            command = command.replace(theirs, ours)
        command = re.sub(r"--seconds \d+", "--seconds 0.1", command)
        run = subprocess.run(
            shlex.split(command),
            cwd=home,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{command}\n{run.stderr}"
        ran.append(command.split()[2] if command.startswith("python") else command.split()[1])
    assert ran == [
        "plugins.openai.convert", "prior.sample", "codec.decode", "conditioning.align", "report",
        "codec.tokenize", "prior.embed",
    ]  # fmt: skip
    assert {"codec", "prior_0", "prior_1", "prior_2"} == {
        p.name for p in (home / "jukebox-1b").iterdir()
    }
    assert (home / "songs" / "sample-0000.wav").stat().st_size > 8_000
    assert "data-start" in (home / "page" / "index.html").read_text("utf-8")
    assert list((home / "features").glob("*.parquet"))
