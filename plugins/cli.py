"""`jukebox NAME ...`: finds the command of that name and runs it.

It knows no command; without a name it lists those that are installed. Command modules import
nothing heavy, so both answer at once.
"""

import difflib
import inspect
import sys
from typing import NoReturn

from plugins import registry
from plugins.ground.command import Command, fail
from plugins.ground.errors import InputError

HELP = ("-h", "--help", "help")


def main(argv: list[str] | None = None) -> NoReturn:
    """Run as a program: the command's exit status, or 2 with one line on stderr for bad input.

    Args:
        argv: what follows the program's name; that of the process by default.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if not argv or argv[0] in HELP:
            print(overview())
            sys.exit(0)
        command = find(argv[0])
    except InputError as error:
        fail(str(error))
    command.main(argv[1:], name=f"jukebox {argv[0]}")


def overview() -> str:
    """How the program is used, with the first line of every command's docstring."""
    commands = registry.plugins(registry.COMMANDS)
    width = max(map(len, commands), default=0)
    lines = [f"  {name:<{width}}  {_summary(plugin)}" for name, plugin in commands.items()]
    return "\n".join(
        [
            "usage: jukebox COMMAND [OPTIONS]",
            "",
            "commands:",
            *lines,
            "",
            "jukebox COMMAND --help lists a command's options.",
        ]
    )


def find(name: str) -> type[Command]:
    """The command of that name; no other is imported.

    Raises:
        InputError: there is none (gives the nearest names), two packages offer it, or it can't be
            loaded.
    """
    known = sorted({plugin.name for plugin in registry.offers(registry.COMMANDS)})
    if name not in known:
        near = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
        raise InputError(f"no command {name!r}: {hint} (jukebox --help describes them)")
    command: type[Command] = registry.get(registry.COMMANDS, name)
    return command


def _summary(plugin: registry.Plugin) -> str:
    try:
        doc = inspect.cleandoc(plugin.load().__doc__ or "")  # its own, not that of its base
    except InputError:
        return f"can't be loaded from {plugin.distribution}: `jukebox plugins` says why"
    return doc.partition("\n")[0]


if __name__ == "__main__":
    main()
