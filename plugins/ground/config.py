"""A config from a preset's name and settings over it. No torch import; it knows no model."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from plugins.ground.errors import InputError, first_problem

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def build_config(
    cls: type[ConfigT],
    presets: Mapping[str, Mapping[str, Any]],
    preset: str,
    settings: Mapping[str, Any],
) -> ConfigT:
    """The preset with `settings` over it, validated.

    Raises:
        InputError: no such preset or setting (lists what there is), or a value is refused.
    """
    if preset not in presets:
        raise InputError(f"no preset {preset!r}; there are: {', '.join(presets)}")
    for name in settings:
        if name not in cls.model_fields:
            near = difflib.get_close_matches(name, cls.model_fields, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else ", ".join(cls.model_fields)
            raise InputError(f"no setting {name!r} in {cls.__name__}; {hint}")
    try:
        return cls.model_validate({**presets[preset], **settings})
    except ValidationError as error:
        raise InputError(f"setting {first_problem(error)}") from error
