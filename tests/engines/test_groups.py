"""The groups of processes in which DeepSpeed exchanges: they wait for a lost rank as long as the run does."""

import os
import subprocess
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from tiny import pictures, tower

from cl.components import Step
from cl.encoders.siamese import siamese
from cl.engines.deepspeed import DeepSpeedEngine
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD

TIMEOUT = timedelta(seconds=7)


def child():
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=TIMEOUT)
    for stage in (0, 1, 2, 3):
        engine = DeepSpeedEngine(stage=stage)
        objective = Objective(siamese(tower()), {"simclr": Term(InBatch(True), InfoNCE(0.2))})
        engine.start(objective, SGD(0.1), Constant(), torch.device("cpu"), torch.float32)
        engine.backward(engine(pictures(4)))
        assert engine.step(Step(0, 1)) is not None
    found = [group._get_backend(torch.device("cpu")).options._timeout for group in dist.distributed_c10d._world.pg_map]
    assert len(found) > 1 and set(found) == {TIMEOUT}, found
    os._exit(0)


def test_every_group_waits_as_long_as_the_run():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr


if __name__ == "__main__":
    child()
