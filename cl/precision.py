"""Which precision a machine computes in."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "bfloat16"]


def cpu_abilities() -> Mapping[str, Any]:
    """What the processor has, by PyTorch; nothing where PyTorch does not say."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def has_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are the device's own; elsewhere they are several times slower than float32's."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    abilities = cpu_abilities()
    return bool(abilities.get("avx512_bf16", False) or abilities.get("amx_bf16", False))


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What `precision` means on a device; float32 is no autocast."""
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def wide(rows: Tensor) -> Tensor:
    """Rows in float32, or as they are where they are wider."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
