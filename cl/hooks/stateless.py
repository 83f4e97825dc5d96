"""What hooks without state of their own share."""

from typing import Any


class Stateless:
    """An empty state dict."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes nothing."""
