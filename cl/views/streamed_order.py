"""The order of an epoch of which only stretches that stand together can be read at a time.

The stretches come in an order anew every epoch and are cut into as many equal shares as there are streams, which take
turns; each stream shuffles a buffer of its samples at a time. The buffers of different streams do not end together, so
that reading is spread evenly. Which sample stands at a place is computed from these numbers: nothing is read to know
it, and a run resumes by filling the buffers it was in.
"""

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from cl.views.groups import stable_hash
from cl.views.order import epoch_order


class StreamedOrder:
    """An epoch's permutation of all samples.

    Args:
        sizes: samples of each stretch.
        streams: that take turns, a sample each. What their number leaves over comes at the end.
        buffer: samples that are shuffled together.
        seed: of the run.
        epoch: of it.
    """

    def __init__(self, sizes: Int64[ndarray, "stretches"], streams: int, buffer: int, seed: int, epoch: int):
        stretches = epoch_order(len(sizes), seed, epoch)
        self.ends = sizes[stretches].cumsum()
        # From a place in the line of stretches to the sample's position in the data set.
        self.shift = (sizes.cumsum() - sizes)[stretches] - (self.ends - sizes[stretches])
        self.streams = streams
        self.share = int(sizes.sum()) // streams
        self.buffer = buffer
        self.seed = seed
        self.epoch = epoch

    def __call__(self, places: Int64[ndarray, "p"]) -> Int64[ndarray, "p"]:
        """The positions of the samples at `places`."""
        stream, turn = places % self.streams, places // self.streams
        inside = turn < self.share
        offset = stream * self.buffer // self.streams
        number = (turn + offset) // self.buffer
        begin = np.maximum(0, number * self.buffer - offset)
        end = np.minimum(self.share, (number + 1) * self.buffer - offset)
        line = places.copy()
        # A call is for a batch: few buffers of few streams.
        for which in {(int(s), int(n)) for s, n in zip(stream[inside], number[inside], strict=True)}:
            rows = np.flatnonzero(inside & (stream == which[0]) & (number == which[1]))
            first, length = int(begin[rows[0]]), int(end[rows[0]] - begin[rows[0]])
            seed = stable_hash("buffer", str(self.seed), *map(str, which))
            line[rows] = which[0] * self.share + first + epoch_order(length, seed, self.epoch, turn[rows] - first)
        return line + self.shift[np.searchsorted(self.ends, line, side="right")]
