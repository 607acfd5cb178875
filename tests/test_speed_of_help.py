"""`--help` answers at once: command modules import nothing heavy."""

import subprocess
import sys

import pytest

from plugins import registry

HEAVY = ("torch", "datasets", "pyarrow", "soundfile", "accelerate", "matplotlib", "ray")
COMMANDS = registry.plugins(registry.COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_nothing_heavy_for_its_help(name: str) -> None:
    module = COMMANDS[name].target.partition(":")[0]
    program = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "--help" in run.stdout
