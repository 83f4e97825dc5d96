"""What makes the mean over ranks of their losses the mean over all rows."""

from cl.distributed import mean_over_ranks, world_size
from cl.types import Contrast


def over_ranks(contrast: Contrast) -> Contrast:
    """The contrast with the divisor of all ranks: their contributing rows on average."""
    return contrast if world_size() == 1 else contrast.divided_by(mean_over_ranks(contrast.contributing))
