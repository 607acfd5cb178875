"""What every command is: a settings model whose fields are its options.

One definition gives options, `--help`, environment variables, a config file and validation. It
does not know what any command does.
"""

import errno
import inspect
import json
import os
import re
import sys
from abc import abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from pydantic_settings.sources import InitSettingsSource

from plugins.ground.errors import InputError

BAD_INPUT = 2
DISK_PROBLEMS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What is the machine's trouble and not a mistake in a program."""
NO_MEMORY = re.compile(
    "out of memory|not enough memory|(can't|cannot) allocate memory|could not create a primitive",
    re.IGNORECASE,
)
"""How libraries say it in errors that are no MemoryError; torch does so."""
LARGEST_CONFIG = 1 << 16
"""Bytes; TOML takes very long over keys that go very deep."""
SPARING = {
    "batch_size": "a smaller --batch-size",
    "accumulate": "a larger --accumulate",
    "recompute": "--recompute",
    "workers": "fewer --workers",
    "dtype": "--dtype bfloat16",
}
"""What takes less memory, by option."""


_ARGUMENTS: ContextVar[Sequence[str]] = ContextVar("arguments", default=())
"""Of the command that runs, if one does: `--config` must be known before options are parsed."""


class Command(BaseSettings):
    """A command. Subclasses add fields and `cli_cmd`, and import heavy modules only there.

    Options come, strongest first, from the command line, from environment variables
    (`JUKEBOX_STEPS` for `--steps`), and from the TOML or JSON file that `--config` names.
    """

    model_config = SettingsConfigDict(
        env_prefix="JUKEBOX_",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        extra="forbid",
    )

    config: Path | None = Field(None, description="TOML or JSON file that gives options")

    @abstractmethod
    def cli_cmd(self) -> None:
        """Do the work.

        Raises:
            InputError: the user's input can't be used.
        """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line and arguments first, then the environment, then the config file."""
        given = getattr(init_settings, "init_kwargs", {}).get("config")
        path = given or _config_on(_ARGUMENTS.get())
        file = InitSettingsSource(settings_cls, _read_config(path) if path else {})
        return init_settings, env_settings, file

    @classmethod
    def main(cls, argv: list[str] | None = None, name: str | None = None) -> NoReturn:
        """Run as a program: exit status 0, or 2 with one line on stderr for bad input."""
        argv = sys.argv[1:] if argv is None else argv
        _ARGUMENTS.set(argv)
        cls.model_config["cli_prog_name"] = name or _program()
        cls.__doc__ = inspect.getdoc(cls)
        try:
            CliApp.run(cls, cli_args=argv, cli_exit_on_error=False)
        except InputError as error:
            fail(str(error))
        except ValidationError as error:
            fail(_first_problem(error))
        except SettingsError as error:
            fail(_syntax(str(error)))
        except (OSError, MemoryError, RuntimeError) as error:
            if _is_no_memory(error):
                fail(f"not enough memory ({_first_line(error)}): {cls._advice()}")
            if not isinstance(error, OSError) or error.errno not in DISK_PROBLEMS:
                raise
            fail(f"{error.filename or 'a file'}: {error.strerror}")
        except KeyboardInterrupt:
            sys.exit(130)
        sys.exit(0)

    @classmethod
    def _advice(cls) -> str:
        """What may help where memory is too small."""
        ways = [way for option, way in SPARING.items() if option in cls.model_fields]
        return f"try {', '.join([*ways, 'ending other programs'])}, or a larger machine"


def fail(message: str) -> NoReturn:
    """Print the one line that bad input gets, and end; of several processes it says which."""
    rank = os.environ.get("RANK", "0")
    who = "error" if rank == "0" else f"error of process {rank}"
    print(f"{who}: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(BAD_INPUT)


def _is_no_memory(error: Exception) -> bool:
    """Whether memory ran out; libraries say so in types of their own, which are not imported."""
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _program() -> str:
    """`python -m codec.train` rather than the path of a file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else Path(sys.argv[0]).name


def _config_on(argv: Sequence[str]) -> str | None:
    """The config file that the command line or the environment names."""
    for here, after in zip(argv, [*argv[1:], ""], strict=False):
        if here == "--config":
            return after
        if here.startswith("--config="):
            return here.split("=", 1)[1]
    return os.environ.get("JUKEBOX_CONFIG")


def _read_config(path: str | Path) -> dict[str, Any]:
    try:
        if Path(path).stat().st_size > LARGEST_CONFIG:
            raise InputError(f"config {path} is too large: it is to hold options, no data")
        text = Path(path).read_text("utf-8")
        content = json.loads(text) if str(path).endswith(".json") else _toml(text)
    except OSError as error:
        raise InputError(f"can't read config {path}: {error.strerror}") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"config {path} is malformed: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"config {path} must hold a table of options")
    return {name.replace("-", "_"): value for name, value in content.items()}


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _syntax(message: str) -> str:
    """What the parser of the command line says, in words."""
    if found := re.search(r"Parsing error encountered for (\S+):", message):
        name = found[1].replace("_", "-")
        return (
            f"--{name}: give NAME=VALUE; a value or name with commas needs JSON: "
            f"""--{name} '{{"name": [1, 2]}}'"""
        )
    return message.removeprefix("error parsing CLI: ")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    option = "--" + ".".join(str(part) for part in problem["loc"]).replace("_", "-")
    if problem["type"] == "missing":
        return f"{option} is missing: see --help"
    if problem["type"] == "extra_forbidden":
        return f"{option} is no option: see --help"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{option}: {message}" + (f", not {problem['input']!r}" if problem["loc"] else "")
