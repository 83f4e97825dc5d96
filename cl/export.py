"""Trunks as files that others load."""

import json
from collections.abc import Iterator, Mapping

from safetensors.torch import save
from torch import Tensor

from cl.encoders.tower import Tower
from cl.objective import Objective


def trunks(objective: Objective, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, bytes]]:
    """Every tower's trunk: a file's name, and as safetensors its weights under the trunk's own (timm's) keys.

    The metadata has one entry, as several come in any order and the same trunk is to be the same bytes:
    `normalised_by`, JSON with `mean` and `std`, which a tower takes from pictures in [0, 1] and divides them by.

    Args:
        objective: whose encoder has the trunks.
        weights: its state dict; the trunks' part of it is what is written.
    """
    paths = {module: path for path, module in objective.named_modules()}
    for name, trunk in objective.encoder.trunks().items():
        start = f"{paths[trunk]}."
        state = {key[len(start) :]: value for key, value in weights.items() if key.startswith(start)}
        state = {key: value.detach().contiguous().cpu() for key, value in state.items()}
        tower = objective.get_submodule(paths[trunk].rpartition(".")[0])
        known = ("mean", "std") if isinstance(tower, Tower) else ()
        by = {key: getattr(tower, key).flatten().tolist() for key in known}
        yield f"trunk.{name}.safetensors", save(state, metadata={"normalised_by": json.dumps(by)})
