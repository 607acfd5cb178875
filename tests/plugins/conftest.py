"""Fresh environments to install packages into."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fresh import Environment, build_wheel, copy_toolkit


@pytest.fixture(scope="session")
def toolkit_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toolkit as it would be published."""
    folder = tmp_path_factory.mktemp("toolkit")
    return build_wheel(copy_toolkit(folder / "source"), folder)


@pytest.fixture
def environment(tmp_path: Path, toolkit_wheel: Path) -> Environment:
    """A fresh environment with the toolkit in it, and nothing of anybody else's."""
    made = Environment(tmp_path / "environment")
    made.install(toolkit_wheel)
    return made
