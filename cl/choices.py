"""Parameters that are one of a few words, or a weight."""

import math
from typing import Any, get_args


def check_choice(value: object, choices: Any, parameter: str) -> None:
    """ValueError naming the parameter if the value is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{parameter} must be one of {', '.join(get_args(choices))}, got {value!r}")


def check_weight(value: float, parameter: str) -> None:
    """ValueError naming the parameter if the value is not a number of at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{parameter} must be a number of at least 0, got {value}")
