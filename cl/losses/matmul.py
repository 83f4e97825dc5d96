"""Products of float32 matrices by oneDNN, where that is faster than PyTorch's own choice."""

import torch
from torch import Tensor

from cl.precision import cpu_abilities


def has_onednn() -> bool:
    """Whether this PyTorch has what `matmul` calls, and may use it."""
    mkldnn = torch.backends.mkldnn
    return mkldnn.is_available() and bool(mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def prefers_onednn(rows: Tensor) -> bool:
    """Whether `matmul` is the faster way to multiply such rows.

    PyTorch takes MKL, which leaves half of the width of an AMD processor's AVX-512 unused: of 512 rows and 512 keys,
    128 wide, oneDNN made 430 GFLOP a second where MKL made 210 (AMD EPYC, Zen 5, two threads, torch 2.14), with about
    the same error. Not measured: Zen 4, which takes two steps for that width, and Intel's, for which MKL is made.
    oneDNN refuses rows of no width.
    """
    if rows.device.type != "cpu" or rows.dtype != torch.float32 or not rows.shape[-1] or not has_onednn():
        return False
    abilities = cpu_abilities()
    return bool(abilities.get("avx512_f", False)) and str(abilities.get("cpu_name", "")).startswith("AMD")


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b by oneDNN, without a derivative. The operator is the one that PyTorch compiles linear layers to."""
    return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")


def keep_freed() -> None:
    """Lets malloc keep up to 32 MB that were freed, for the next product.

    `matmul` returns fresh memory. glibc gives a freed MB back to the system, so that the next one's pages are faulted
    in anew, until it has seen a larger block freed: 65,536 pairs took 17 s instead of 12. This block is never touched.
    """
    torch.empty(2**22)
