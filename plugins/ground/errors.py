"""The one exception for bad input. It does not know who raises it or how it is shown."""


class InputError(ValueError):
    """Something that the user gave can't be used: says what, where, and what to do.

    Commands print it as one line, ``error: ...``, and end with status 2; as a library it is an
    ordinary ``ValueError`` to catch.
    """
