"""Parameters that are one of a few words."""

from typing import Any, get_args


def check_choice(value: object, choices: Any, parameter: str) -> None:
    """ValueError naming the parameter if the value is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{parameter} must be one of {', '.join(get_args(choices))}, got {value!r}")
