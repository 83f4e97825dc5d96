"""Which of many integers are equal to which of many others, without comparing every pair."""

from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Matches:
    """All pairs (i, j) with needles[i] == hay[j]: counted, listed, or summed over, in O((m + n) log min(m, n)).

    Args:
        needles: m integers.
        hay: n integers.

    Attributes:
        count: of each needle, how many pairs it is in.
    """

    def __init__(self, needles: Int64[Tensor, "m"], hay: Int64[Tensor, "n"]):
        needles, hay = needles.contiguous(), hay.contiguous()
        self.where: Tensor | None = None
        if len(hay) > 4 * len(needles):
            # Few of the hay can match: a long queue need not be sorted.
            known = needles.sort().values
            place = torch.searchsorted(known, hay).clamp(max=max(len(known) - 1, 0))
            self.where = (known[place] == hay).nonzero().flatten() if len(known) else place[:0]
            hay = hay[self.where]
        self.rows = len(needles)
        self.hay = hay
        self.ordered, self.order = hay.sort()
        self.low = torch.searchsorted(self.ordered, needles)
        self.count = torch.searchsorted(self.ordered, needles, right=True) - self.low

    @cached_property
    def total(self) -> int:
        """How many pairs there are."""
        return int(self.count.sum())

    def pairs(self, needles: slice) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]]:
        """The pairs of a slice of the needles: (i, j), i counted from the first of all, in order."""
        few = self.total <= 2 * (self.rows + len(self.hay))
        return self._all if few and needles == slice(0, self.rows) else self._listed(needles)

    def sums(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Of each needle, the sum of the rows that its matches stand for; the pairs are not listed."""
        rows = rows if self.where is None else rows.index_select(0, self.where)
        slot = torch.searchsorted(self.ordered, self.hay)  # equal hay share the slot of the first in order
        slots = rows.new_zeros(len(rows) + 1, rows.shape[1]).index_add(0, slot, rows)
        return slots.index_select(0, self.low.masked_fill(self.count == 0, len(rows)))

    @cached_property
    def _all(self) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]]:
        return self._listed(slice(0, self.rows))

    def _listed(self, needles: slice) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]]:
        if not self.total:
            return self.order[:0], self.order[:0]
        count, low = self.count[needles], self.low[needles]
        i = torch.repeat_interleave(count)
        before = count.cumsum(0).sub_(count).sub_(low)
        j = self.order.index_select(0, torch.arange(len(i), device=i.device).sub_(before.index_select(0, i)))
        return i.add_(needles.start), j if self.where is None else self.where.index_select(0, j)


def sums(rows: Float[Tensor, "n d"], i: Int64[Tensor, "p"], j: Int64[Tensor, "p"], m: int) -> Float[Tensor, "m d"]:
    """Of each of m, the sum of the rows j that it is paired with; `i` is in order."""
    if len(i) == m and torch.equal(i, torch.arange(m, device=i.device)):
        return rows.index_select(0, j)
    return rows.new_zeros(m, rows.shape[1]).index_add(0, i, rows.index_select(0, j))
