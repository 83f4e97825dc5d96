"""Help for a misspelt name."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence for who wrote `name` and may have meant one of `known`."""
    by_lower = {option.lower(): option for option in sorted(set(known))}
    if close := difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5):
        return f"Did you mean `{by_lower[close[0]]}`?"
    return f"There is: {', '.join(by_lower.values())}." if by_lower else "There is none."
