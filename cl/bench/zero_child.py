"""One rank of a training that is measured."""

import json
import os
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cl import rules, wiring
from cl.components import Step
from cl.train import Training
from cl.types import Views

STEPS = 100_000
BATCH = 4
"""Samples a rank, where only memory is measured."""


def main(rendezvous: str, kind: str, recipe: str, stage: str) -> None:
    """`kind` is memory: one line with the bytes held; or speed: a line of seconds for every number of steps read."""
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if stage != "local":
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    params = [] if stage == "local" else ["cl.train.engine = @DeepSpeedEngine()", f"DeepSpeedEngine.stage = {stage}"]
    params += ["cl.train.precision = 'float32'", f"cl.train.steps = {STEPS}"]
    torch.manual_seed(0)
    if kind == "memory":
        _memory(wiring.read([recipe], [*params, "TRAIN = 'none'", "VALIDATION = 'none'"]).build(), world)
    else:
        training = wiring.read([recipe], params).build()
        rules.check(training)
        _speed(training)


def _memory(training: Training, world: int) -> None:
    numbers = sum(p.numel() for p in training.objective.parameters())
    training.start()
    engine: Any = training.engine
    sample = torch.arange(BATCH) + 100 * training.place.rank
    crops = torch.rand(BATCH, 3, 224, 224), torch.randint(1, 1000, (BATCH, 77))
    found: dict[str, float] = {}
    for index in range(2):  # the optimizer's state is there from the first step on
        start = time.perf_counter()
        engine.backward(engine(Views(crops, (0, 1), sample, sample)))
        found = {"numbers": numbers, **_held(engine)}
        engine.step(Step(index, 2))
        found["step_seconds"] = time.perf_counter() - start
    print(json.dumps(found), flush=True)
    dist.barrier()
    os._exit(0)


def _held(engine: Any) -> dict[str, int]:
    """Bytes of this rank's parameters, gradients, and optimizer's state with its copy of parameters."""
    sharded, parameters = engine.optimizer, list(engine.objective.parameters())
    torch_optimizer = getattr(sharded, "optimizer", sharded)
    gradients = [p.grad for p in parameters if p.grad is not None]
    master: list[Tensor] = []
    if engine.stage == 3:
        gradients = list(sharded._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition.values())
        master = list(sharded.fp32_partitioned_groups_flat)
    elif engine.stage:
        gradients += [each for group in sharded.averaged_gradients.values() for each in group or ()]
        master = list(sharded.single_partition_of_fp32_groups)
    state = [each for state in torch_optimizer.state.values() for each in state.values() if isinstance(each, Tensor)]
    shares = [getattr(p, "ds_tensor", p) for p in parameters]
    return {
        "parameters": _bytes(shares),
        "gradients": _bytes(gradients),
        "optimizer": _bytes([*master, *state]),
    }


def _bytes(tensors: list[Tensor]) -> int:
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


def _speed(training: Training) -> None:
    training.start()
    batches, index = training.views.iterate(training.place), 0
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            training.step(Step(index, STEPS), batches, None)  # type: ignore[arg-type]  # nothing is written
            index += 1
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
