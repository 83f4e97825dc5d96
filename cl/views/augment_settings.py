"""What the augmentations of pictures have in common: their parameters, and which values make sense."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class AugmentSettings(Protocol):
    """The parameters that `BatchAugment`, `FusedAugment` and `ReferenceAugment` share, as they are told there."""

    size: int
    crop: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gray: float
    blur: float
    sigma: tuple[float, float]
    solarize: float


def check_settings(settings: AugmentSettings) -> None:
    """Raises ValueError for a value that makes no sense, named as it is bound: `BatchAugment.size`."""
    owner = type(settings).__name__
    if settings.size < 1:
        raise ValueError(f"{owner}.size must be at least 1 pixel, got {settings.size}")
    for name in ("crop", "ratio", "sigma"):
        low, high = getattr(settings, name)
        if not 0 < low <= high:
            raise ValueError(f"{owner}.{name} must be a range (low, high) above 0, got {(low, high)}")
    for name in ("flip", "jitter", "gray", "blur", "solarize"):
        p = getattr(settings, name)
        if not 0 <= p <= 1:
            raise ValueError(f"{owner}.{name} is a probability: from 0 to 1, got {p}")
    for name in ("brightness", "contrast", "saturation"):
        amount = getattr(settings, name)
        if not 0 <= amount < float("inf"):
            raise ValueError(f"{owner}.{name} must be at least 0, got {amount}")
    if not 0 <= settings.hue <= 0.5:
        raise ValueError(f"{owner}.hue is in full turns: from 0 to 0.5, got {settings.hue}")


def largest_kernel(size: int) -> int:
    """A blur's width in pixels: odd, a tenth of a view's side (Chen et al. 2020, appendix A), at least 3."""
    return max(3, size // 10 // 2 * 2 + 1)
