"""Random numbers of augmentation: a counter-based function, never a stream.

What a sample's view looks like depends on (seed, epoch, sample, view) and on nothing else: not on the rank, the batch
or what was drawn before. So ranks agree with one process, a resumed run with an unbroken one, and the two passes of an
exact large batch see the same pictures.

The mixing is that of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), here
in wrapping int64 arithmetic, which torch has on every device.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_WEYL = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def uniforms(seed: int, epoch: int, sample: Int64[Tensor, "b"], view: int, count: int) -> Float[Tensor, "b count"]:
    """`count` independent numbers for every sample, uniform over the 2^24 float32 multiples of 2^-24 in [0, 1).

    On the device of `sample`. Column i does not depend on `count`.
    """
    state = 0
    for part in (seed, epoch, view):
        state = _mix_int((state ^ part) + _WEYL & _MASK)
    # Two rounds for the sample, so that ids which differ in one bit share nothing.
    rows = _mix(_mix(sample ^ _signed(state)) + _signed(_WEYL))
    counters = [_signed(_WEYL * (i + 1) & _MASK) for i in range(count)]
    steps = torch.tensor(counters, dtype=torch.int64, device=sample.device)
    bits = _shift(_mix(rows[:, None] + steps), 40)
    return bits.float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift(x, 27)) * _signed(_SECOND)
    return x ^ _shift(x, 31)


def _mix_int(x: int) -> int:
    x = (x ^ x >> 30) * _FIRST & _MASK
    x = (x ^ x >> 27) * _SECOND & _MASK
    return x ^ x >> 31


def _shift(x: Tensor, bits: int) -> Tensor:
    # int64 has only the arithmetic shift; the mask drops the copies of the sign.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
