"""A fresh Python environment, as somebody makes one who installs the toolkit and a plugin.

What the toolkit depends on is not downloaded once more: a `.pth` file shows the environment the
packages that these tests run with. That file names their folder only, so an editable installation
of the toolkit, which needs a `.pth` file of its own there, is not seen; the toolkit and plugins are
wheels that were built and installed for the environment alone.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("codec", "conditioning", "prior", "plugins", "pyproject.toml", "README.md", "LICENSE")


class Environment:
    """A virtual environment, to install wheels into and to run programs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _checked([sys.executable, "-m", "venv", "--without-pip", folder])
        self.python = folder / "bin" / "python"
        self.home = folder.parent / "home"
        """Where programs run."""
        self.home.mkdir()
        places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text("".join(f"{place}\n" for place in places))

    def install(self, wheel: Path) -> None:
        """Install a wheel without what it depends on, which is there."""
        self._pip("install", "--no-index", "--no-deps", "--ignore-installed", wheel)

    def uninstall(self, name: str) -> None:
        """Remove a distribution."""
        self._pip("uninstall", "--yes", name)

    def _pip(self, verb: str, *words: str | Path) -> None:
        _checked([self.python, "-m", "pip", verb, "--quiet", *words])

    def run(self, *words: object) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end, in `home`."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [str(self.folder / "bin" / str(words[0])), *map(str, words[1:])],
            cwd=self.home,
            env={**variables, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


def build_wheel(source: Path, out: Path) -> Path:
    """Build the wheel of a source folder, with the build tools of this environment."""
    # No isolated environment, since that would be downloaded.
    _checked([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source])
    (wheel,) = out.glob("*.whl")
    return wheel


def copy_toolkit(folder: Path) -> Path:
    """The toolkit's sources, so that building leaves nothing beside the originals."""
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=_LEFTOVERS)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def copy_package(name: str, folder: Path) -> Path:
    """The sources of one of the packages below `tests/`."""
    return Path(shutil.copytree(ROOT / "tests" / name, folder / name, ignore=_LEFTOVERS))


_LEFTOVERS = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")


def _checked(words: list[str | Path]) -> None:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
