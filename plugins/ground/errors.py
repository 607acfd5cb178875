"""The one exception for bad input. It does not know who raises it or how it is shown."""

from pydantic import ValidationError


class InputError(ValueError):
    """Something that the user gave can't be used: says what, where, and what to do.

    Commands print it as one line, ``error: ...``, and end with status 2; as a library it is an
    ordinary ``ValueError`` to catch.
    """

    def __str__(self) -> str:
        """One line, whatever names and texts of the user's are in it."""
        return " ".join(super().__str__().splitlines())


def first_problem(error: ValidationError) -> str:
    """What pydantic found first, as "place: message"."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
