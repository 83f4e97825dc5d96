"""What a loss sees, and who is whose positive: from ids alone, never from an `m n` mask."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial, reduce
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cl.choices import check_choice
from cl.matches import Matches, sums

GROUP, SAMPLE, VIEW = 0, 1, 2

MANY = 32
"""Of a block of queries and the pool, pairs of equal groups are listed where they are at most one in so many."""

StaleSame = Literal["positive", "ignored", "negative"]


@dataclass(frozen=True, eq=False)
class Contrast:
    """What a loss sees: queries, and up to two kinds of keys.

    Attributes:
        q: query rows.
        q_ids: their ids.
        paired: row i is query i's own positive (MoCo's key, BYOL's target).
        pool: keys that every query may meet (the batch, the queue).
        pool_ids: their ids.
        stale: pool rows that an earlier step made (the queue); None: none.
        stale_same: what a stale key of the query's own sample is.
        pool_is_q: the pool's rows are the queries', so a kernel may use the symmetry; `pool` is then `q` itself.
        both_ways: the pool's rows are queries too, against `q` (CLIP's two directions).
        divisor: contributing rows over all ranks, divided by the number of ranks; None: count this rank's.

    In the pool a pair is positive where the groups match, a negative otherwise, and never met where it is the row
    itself: same sample and same view, and fresh. A stale pair of one sample is what `stale_same` says; of two groups
    it is not a positive.
    """

    q: Float[Tensor, "m d"]
    q_ids: Int64[Tensor, "m 3"]
    paired: Float[Tensor, "m d"] | None = None
    pool: Float[Tensor, "n d"] | None = None
    pool_ids: Int64[Tensor, "n 3"] | None = None
    stale: Bool[Tensor, "n"] | None = None
    stale_same: StaleSame = "ignored"
    pool_is_q: bool = False
    both_ways: bool = False
    divisor: Float[Tensor, ""] | None = None

    def __post_init__(self) -> None:
        """ValueError: rows that do not belong together."""
        _check("q", self.q, self.q_ids, self.q)
        if self.paired is not None:
            _check("paired", self.paired, self.q_ids, self.q)
        if self.pool is not None or self.pool_ids is not None:
            _check("pool", self.pool, self.pool_ids, self.q)
        if self.stale is not None and (self.pool is None or self.stale.shape != (len(self.pool),)):
            raise ValueError(
                f"A contrast's stale has the shape {tuple(self.stale.shape)}: one for each row of the pool."
            )
        check_choice(self.stale_same, StaleSame, "A contrast's stale_same")
        plain = self.pool is not None and self.paired is None and self.stale is None
        if (self.pool_is_q or self.both_ways) and not (plain and self.pool_is_q != self.both_ways):
            raise ValueError(
                "A contrast whose pool is its queries (pool_is_q), or that goes both ways, has a fresh pool, "
                "no paired rows, and is not both at once."
            )
        if self.pool_is_q and self.pool_ids is not self.q_ids and not torch.equal(self._pool_ids, self.q_ids):
            raise ValueError(
                "A contrast whose pool is its queries (pool_is_q) has other ids for them: give pool and pool_ids anew "
                "along with q and q_ids."
            )
        if self.pool_is_q:  # the very rows: losses look at the one or the other
            object.__setattr__(self, "pool", self.q)

    @staticmethod
    def pairs(z0: Float[Tensor, "b d"], z1: Float[Tensor, "b d"], both_ways: bool = False) -> "Contrast":
        """Two views of the same samples, row by row.

        Every row meets all other rows of both views (SimCLR); with `both_ways` only those of the other view, in
        both directions (CLIP).
        """
        if z0.shape != z1.shape:
            raise ValueError(f"Views of the shapes {tuple(z0.shape)} and {tuple(z1.shape)}: both have a row a sample.")
        sample = torch.arange(len(z0), device=z0.device)
        ids = [torch.stack([sample, sample, torch.full_like(sample, view)], dim=1) for view in (0, 1)]
        if both_ways:
            return Contrast(q=z0, q_ids=ids[0], pool=z1, pool_ids=ids[1], both_ways=True)._known(_aligned=True)
        rows, row_ids = torch.cat([z0, z1]), torch.cat(ids)
        contrast = Contrast(q=rows, q_ids=row_ids, pool=rows, pool_ids=row_ids, pool_is_q=True)
        return contrast._known(_grouped=False, _views=2)

    @staticmethod
    def of(z: Float[Tensor, "m d"], labels: Int64[Tensor, "m"]) -> "Contrast":
        """Every row against every other; rows of the same label are positives (SupCon)."""
        if labels.shape != (len(z),):
            raise ValueError(f"{len(z)} rows, and labels of the shape {tuple(labels.shape)}: one label a row.")
        sample = torch.arange(len(z), device=z.device)
        ids = torch.stack([labels, sample, torch.zeros_like(sample)], dim=1)
        return Contrast(q=z, q_ids=ids, pool=z, pool_ids=ids, pool_is_q=True)._known(_views=1)

    def divided_by(self, divisor: Float[Tensor, ""]) -> "Contrast":
        """The same with another divisor; what was found out from the ids stays known."""
        given = {field.name for field in fields(self)}
        found = {name: value for name, value in self.__dict__.items() if name not in given}
        return replace(self, divisor=divisor)._known(**found)

    def _known(self, **found: Any) -> "Contrast":
        # What these properties would find out from the ids.
        self.__dict__.update(found)
        return self

    # A pair of equal groups is positive, but for some pairs of one sample: the row itself, and by the rule a stale one.
    # Pairs of one sample are a few.

    @property
    def _pool_ids(self) -> Int64[Tensor, "n 3"]:
        assert self.pool_ids is not None, "a contrast without a pool has no pairs in it"
        return self.pool_ids

    @property
    def _everyone(self) -> slice:
        return slice(0, len(self.q_ids))

    @cached_property
    def _same(self) -> Matches:
        return Matches(self.q_ids[:, SAMPLE], self._pool_ids[:, SAMPLE])

    @cached_property
    def _grouped(self) -> bool:
        # Whether there are groups other than samples.
        each = (self.q_ids,) if self.pool_is_q else (self.q_ids, self._pool_ids)
        return not all(torch.equal(ids[:, GROUP], ids[:, SAMPLE]) for ids in each)

    @cached_property
    def _equal(self) -> Matches:
        if not self._grouped:
            return self._same
        return Matches(self.q_ids[:, GROUP], self._pool_ids[:, GROUP])

    def _never(self, query: Tensor, key: Tensor, stale: bool) -> Bool[Tensor, "p"]:
        # Of pairs of one sample: the row itself, and with `stale` the stale ones.
        itself = self.q_ids[:, VIEW].index_select(0, query) == self._pool_ids[:, VIEW].index_select(0, key)
        if self.stale is None:
            return itself
        old = self.stale.index_select(0, key)
        return itself | old if stale else itself & ~old

    @property
    def _opposed(self) -> bool:
        return self.stale is not None and self.stale_same == "negative"

    @cached_property
    def _views(self) -> int | None:
        # How many views of equal, different samples the rows are, one view after the other, where the pool is the
        # queries; else None. Who is of whose sample is then arithmetic: row i and i + b, apart from itself only.
        if not self.pool_is_q or not len(self.q_ids):
            return None
        _, sample, view = self.q_ids.unbind(dim=1)
        v = int((sample == sample[0]).sum())
        if len(sample) % v:
            return None
        samples, views = sample.view(v, -1), view.view(v, -1)
        ordered, numbers = samples[0].sort().values, views[:, 0]
        regular = (samples == samples[0]).all() & (views == numbers[:, None]).all()
        regular &= (ordered[1:] != ordered[:-1]).all() & ((numbers[:, None] == numbers).sum() == v)
        return v if regular else None

    @cached_property
    def _twins(self) -> int | None:
        # The same, where there are no groups but the samples.
        return None if self._views is None or self._grouped else self._views

    @cached_property
    def _aligned(self) -> bool:
        # Whether row i's one positive is the pool's row i, and none is apart: two views of equal, different samples.
        if not self.both_ways or self._grouped or not torch.equal(self.q_ids[:, SAMPLE], self._pool_ids[:, SAMPLE]):
            return False
        ordered = self.q_ids[:, SAMPLE].sort().values
        unlike = self.q_ids[:, VIEW] != self._pool_ids[:, VIEW]
        return bool(unlike.all() & (ordered[1:] != ordered[:-1]).all())

    @cached_property
    def _of_sample(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        # All pairs of one sample and one group: those that are no positives, and those that are.
        query, key = pairs = self._same.pairs(self._everyone)
        if not self._same.total:
            return pairs, pairs
        never = self._never(query, key, stale=self.stale_same != "positive")
        if self._equal is self._same:
            return _which(pairs, never), _which(pairs, ~never)
        like = self.q_ids[:, GROUP][query] == self._pool_ids[:, GROUP][key]
        return _which(pairs, never & like), _which(pairs, ~never & like)

    def apart(self, rows: slice) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]]:
        """Pairs (query, pool row) that never meet, of a slice of the queries; each pair once."""
        if self._views is not None:
            itself = torch.arange(rows.start, rows.stop, device=self.q_ids.device)
            return itself, itself
        if self._aligned:
            none = self.q_ids.new_empty(0)
            return none, none
        if rows == self._everyone and self._equal is self._same and not self._opposed:
            return self._of_sample[0]
        pairs = self._same.pairs(rows)
        return _which(pairs, self._never(*pairs, stale=self.stale_same == "ignored"))

    def apart_or_positive(
        self, rows: slice
    ) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]] | Callable[[slice], Bool[Tensor, "r c"]]:
        """All pairs of a slice of the queries but the negatives; each pair once.

        Where they are many they are not listed: it is then a function of a slice of the pool to the mask of those.
        """
        count = int(self._equal.count[rows].sum())
        if count * MANY > (rows.stop - rows.start) * len(self._pool_ids):
            return partial(self._mask, rows)
        query, key = pairs = self._equal.pairs(rows)
        if self.stale is not None and self._opposed:
            negative = self.stale[key] & (self.q_ids[query, SAMPLE] == self._pool_ids[key, SAMPLE])
            pairs = _which(pairs, ~negative)
        if self._equal is self._same:
            return pairs
        # A sample whose group has changed, such as a picture with another caption, is still apart from itself.
        query, key = apart = self.apart(rows)
        others = _which(apart, self.q_ids[:, GROUP][query] != self._pool_ids[:, GROUP][key])
        return torch.cat([pairs[0], others[0]]), torch.cat([pairs[1], others[1]])

    def _mask(self, rows: slice, keys: slice) -> Bool[Tensor, "r c"]:
        group, sample, view = (self.q_ids[rows, None] == self._pool_ids[keys]).unbind(dim=-1)
        if self.stale is None:
            return group | (sample & view)
        old = sample & self.stale[keys]
        never = (sample & view & ~old) | (old & (self.stale_same == "ignored"))
        return (group & ~(old & self._opposed)) | never

    @cached_property
    def candidates(self) -> Int64[Tensor, "m"]:
        """How many keys each query meets, its paired row included."""
        query, _ = self.apart(self._everyone)
        return len(self._pool_ids) + (self.paired is not None) - query.bincount(minlength=len(self.q_ids))

    def gathering(self, pool: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """The sum of all rows that each query meets among `pool`, rows that stand for the pool's."""
        query, key = self.apart(self._everyone)
        return pool.sum(dim=0) - sums(pool, query, key, len(self.q_ids))

    def agreement(self, q: Float[Tensor, "m d"], pool: Float[Tensor, "n d"]) -> Float[Tensor, "m"]:
        """The sum of each query's inner products with its positives.

        `q` stands for the queries' rows and `pool` for the pool's: one tensor where those are one.
        """
        if q is pool and self._twins == 2:
            one, other = q.chunk(2)
            return (one * other).sum(dim=1).repeat(2)
        return (q * self.attraction(pool)).sum(dim=1)

    def attraction(self, pool: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """The sum of each query's positives among `pool`, rows that stand for the pool's; in O((m + n) d)."""
        m = len(self.q_ids)
        if self._aligned:
            return pool
        if self._twins is not None:
            turns = [pool.roll(shift * m // self._twins, dims=0) for shift in range(1, self._twins)]
            return reduce(torch.add, turns) if turns else torch.zeros_like(pool)
        if self._views is not None:
            return self._equal.sums(pool) - pool
        others, positives = self._of_sample
        if self._equal is self._same:
            return sums(pool, *positives, m)
        return self._equal.sums(pool) - sums(pool, *others, m)

    @cached_property
    def only_paired(self) -> bool:
        """Whether each query's paired row is known to be its only positive: no key of the pool is of its group."""
        return self.paired is not None and (self.pool_ids is None or not self._equal.total)

    @cached_property
    def positives(self) -> Int64[Tensor, "m"]:
        """How many positives each query has, its paired row included; from the ids, in O((m + n) log n)."""
        if self.pool_ids is None or self.one_each:
            return torch.full_like(self.q_ids[:, GROUP], int(self.one_each))
        if self._twins is not None:
            return torch.full_like(self.q_ids[:, GROUP], self._twins - 1)
        if self._views is not None:
            return self._equal.count - 1
        query = self._of_sample[0][0]
        own = 0 if self.paired is None else 1
        return own + self._equal.count - query.bincount(minlength=len(self.q_ids))

    @cached_property
    def turned(self) -> "Contrast":
        """The pool's rows as the queries and the queries as the pool, where `both_ways` makes them that."""
        assert self.pool is not None, "a contrast that goes both ways has a pool"
        turned = Contrast(self.pool, self._pool_ids, pool=self.q, pool_ids=self.q_ids)
        return turned._known(_grouped=self._grouped, _aligned=self._aligned)

    @cached_property
    def one_each(self) -> bool:
        """Whether every query is known to have one positive without counting any."""
        return self.only_paired or self._aligned or self._twins == 2

    @cached_property
    def all_contribute(self) -> bool:
        """Whether every query is known to have a positive without counting any."""
        return self.paired is not None or self._aligned or (self._twins or 1) > 1

    @cached_property
    def contributing(self) -> Float[Tensor, ""]:
        """Rows of this rank with at least one positive."""
        if self.all_contribute:
            every = len(self.q_ids) + (len(self._pool_ids) if self.both_ways else 0)
            return torch.full((), float(every), device=self.q_ids.device)
        rows = (self.positives > 0).sum()
        if self.both_ways:
            rows = rows + (self.turned.positives > 0).sum()
        return rows.float()


def _which(pairs: tuple[Tensor, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    places = mask.nonzero().flatten()
    return pairs[0].index_select(0, places), pairs[1].index_select(0, places)


def _check(name: str, rows: Tensor | None, ids: Tensor | None, q: Tensor) -> None:
    if rows is None or ids is None or ids.shape != (len(rows), 3) or rows.ndim != 2 or rows.shape[1:] != q.shape[1:]:
        shapes = [None if each is None else tuple(each.shape) for each in (rows, ids)]
        raise ValueError(
            f"A contrast's {name} has the shape {shapes[0]}, its ids {shapes[1]}, and its queries {tuple(q.shape)}: "
            "every row has an id of three integers (group, sample, view), and all rows are as wide as the queries."
        )
