"""What may stand in `DeepSpeedEngine.settings`: what DeepSpeed reads, and no binding decides."""

import json
import logging
import os
from collections.abc import Iterator, KeysView
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError

OURS = {
    "train_batch_size": "the views' batch",
    "train_micro_batch_size_per_gpu": "the views' batch",
    "gradient_accumulation_steps": "DeepSpeedEngine.accumulate",
    "gradient_clipping": "DeepSpeedEngine.clip",
    "optimizer": "cl.train.optimizer",
    "scheduler": "cl.train.schedule",
    "bf16": "cl.train.precision",
    "bfloat16": "cl.train.precision",
    "fp16": "cl.train.precision",
    "torch_autocast": "cl.train.precision",
    "amp": "cl.train.precision",
    "activation_checkpointing": "Tower.recompute",
    "gradient_allreduce_op": "this engine, whose gradient is the mean over ranks,",
    "managed_gradient_accumulation": "this engine",
    "wall_clock_breakdown": "tools/bench.py",
    "flops_profiler": "this engine, whose steps it cannot time,",
    "tensor_parallel": "this engine, whose networks are whole on every rank,",
}
"""Settings of DeepSpeed's that are ours to decide."""
OURS_OF_ZERO = {
    "stage": "DeepSpeedEngine.stage",
    "offload_optimizer": "DeepSpeedEngine.offload",
    "offload_param": "DeepSpeedEngine.offload",
    "cpu_offload": "DeepSpeedEngine.offload",
    "cpu_offload_param": "DeepSpeedEngine.offload",
    "cpu_offload_use_pin_memory": "DeepSpeedEngine.offload",
    "compute_grad_norm": "this engine, which finds gradients that are not finite by it,",
    "leaf_module": "this engine, as leaves lose gradients where a network runs twice,",
    "stage3_module_granularity_threshold": "this engine, which has no leaf modules,",
    "zero_hpz_partition_size": "this engine, whose momentum copies it would not follow,",
}
"""Those of its `zero_optimization`."""
OURS_OF_TYPES = {"param_dtype": "cl.train.precision", "buffer_dtype": "cl.train.precision"}
"""Those of its `data_types`."""


def deepspeed() -> ModuleType:
    """The library, which takes seconds to import, silent but for errors."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # instead of a warning that none was found
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed


def loaded(settings: dict[str, Any] | str) -> dict[str, Any]:
    """Settings as they are, or those of a JSON file.

    Raises:
        ValueError: there is no such file, or something else in it.
    """
    if isinstance(settings, dict):
        return settings
    try:
        found = json.loads(Path(settings).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"settings = {settings!r} is no file of JSON that can be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"settings = {settings!r} has a {type(found).__name__} in it, and no object")
    return found


def merged(made: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What DeepSpeed is given: `settings` over what this engine has `made`.

    Raises:
        ValueError: one is a binding's to decide, has a value that DeepSpeed refuses, or is read by nothing.
    """
    of_zero = settings.get("zero_optimization", {})
    if not isinstance(of_zero, dict):
        raise ValueError(f"settings['zero_optimization'] must be a dict, got {of_zero!r}")
    of_types = settings.get("data_types")
    of_types = of_types if isinstance(of_types, dict) else {}
    for given, ours in ((settings, OURS), (of_zero, OURS_OF_ZERO), (of_types, OURS_OF_TYPES)):
        for name in given.keys() & ours.keys():
            raise ValueError(f"settings has {name!r}, which {ours[name]} decides")
    config = made | settings | {"zero_optimization": made["zero_optimization"] | of_zero}
    if settings:
        _read(config, settings)
    return config


def _read(config: dict[str, Any], settings: dict[str, Any]) -> None:
    deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig

    read = _Read(config)
    try:
        DeepSpeedConfig(read)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ValueError(f"settings are refused by DeepSpeed's {error.title}: {wrong}") from error
    except Exception as error:  # asserts, and what a value of another type brings about
        raise ValueError(f"settings are refused by DeepSpeed: {type(error).__name__}: {error}") from error
    for name, known in _unread(settings, read):
        near = get_close_matches(name, known - OURS.keys(), n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"settings has {name!r}, which DeepSpeed does not read.{meant}")


def _unread(settings: dict[str, Any], read: "_Read") -> Iterator[tuple[str, set[str]]]:
    """Names that nobody asked for, and those that were, level by level."""
    for name, value in settings.items():
        inner = dict.get(read, name)
        if name not in read.names:
            yield str(name), read.names
        elif isinstance(inner, _Read) and inner.names:  # else pydantic, which is strict, read it
            yield from _unread(value, inner)


class _Read(dict[str, Any]):
    """A dict that notes which names it was asked for, as do those in it."""

    def __init__(self, values: dict[str, Any]):
        super().__init__({name: _Read(value) if isinstance(value, dict) else value for name, value in values.items()})
        self.names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:  # a dict of another kind is not taken apart behind its back by `**`
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return KeysView(self)  # which asks this dict

    def __copy__(self) -> "_Read":
        return self
