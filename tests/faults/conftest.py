"""What commands are run on while something goes wrong."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cases import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One for all processes of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    return Lab.shared((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "lab")
