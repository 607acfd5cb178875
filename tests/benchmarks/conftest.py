"""Scripts of benchmarks/ import each other by plain name, as python lets them when it runs one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
