"""Products of float32 matrices by oneDNN, where that is faster than PyTorch's own choice."""

import torch
from torch import Tensor


def has_onednn() -> bool:
    """Whether this PyTorch has what `matmul` calls."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def prefers_onednn(rows: Tensor) -> bool:
    """Whether `matmul` is the faster way to multiply such rows.

    PyTorch takes MKL, which leaves half of the width of an AMD processor's AVX-512 unused: of 512 rows and 512 keys,
    128 wide, oneDNN made 430 GFLOP a second where MKL made 210 (AMD EPYC, Zen 5, two threads, torch 2.14). Both round
    alike. Nothing was measured on Intel's processors, for which MKL is made.
    """
    if rows.device.type != "cpu" or rows.dtype != torch.float32 or not has_onednn():
        return False
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_f", False)) and str(abilities.get("cpu_name", "")).startswith("AMD")


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b by oneDNN, without a derivative. The operator is the one that PyTorch compiles linear layers to."""
    return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
