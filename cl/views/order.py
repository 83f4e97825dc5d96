"""The order of an epoch: a permutation that is computed a place at a time and stored nowhere.

A Feistel network of as many bits as the number of samples needs is a permutation of a power of two (Luby & Rackoff
1988); a place that falls outside is sent through it again until it falls inside ("cycle walking", Black & Rogaway
2002), which happens less than once a place on average. So the sample at a place of an epoch is a function of (seed,
epoch, place): any rank or worker finds its own samples, and a run resumes, without anything that grows with the data.
"""

import numpy as np
from jaxtyping import Int64, UInt64
from numpy import ndarray

from cl.views.groups import stable_hash

_ROUNDS = 8


def epoch_order(n: int, seed: int, epoch: int, places: Int64[ndarray, "p"] | None = None) -> Int64[ndarray, "p"]:
    """Which of `n` samples stand at `places` of an epoch, each from 0 to n - 1; None: the whole order."""
    bits = max(2, (n - 1).bit_length())
    keys = [np.uint64(stable_hash("order", str(seed), str(epoch), str(round))) for round in range(_ROUNDS)]
    order = (np.arange(n) if places is None else places).astype(np.uint64)
    outside = np.arange(len(order))
    while len(outside):
        order[outside] = _feistel(order[outside], bits, keys)
        outside = outside[order[outside] >= n]
    return order.astype(np.int64)


def _feistel(x: UInt64[ndarray, "p"], bits: int, keys: list[np.uint64]) -> UInt64[ndarray, "p"]:
    # The halves differ by a bit where `bits` is odd; they swap their places, and so their widths, every round.
    low = bits // 2
    for key in keys:
        width, high = np.uint64(low), np.uint64(bits - low)
        left, right = x >> width, x & _ones(low)
        x = (right << high) | (left ^ (_mixed(right ^ key) & _ones(bits - low)))
        low = bits - low
    return x


def _ones(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def _mixed(x: UInt64[ndarray, "p"]) -> UInt64[ndarray, "p"]:
    # SplitMix64's finaliser (Steele, Lea and Flood 2014).
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
