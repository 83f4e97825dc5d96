"""Pieces by DeepSpeed: what the terms learn is learned at every stage, with and without a network that is trained."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from tiny import pictures, tower

from cl.components import Step
from cl.encoders.siamese import siamese
from cl.engines.deepspeed import DeepSpeedEngine
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import LearnedTemperature
from cl.negatives.in_batch import InBatch
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD


def learned(frozen, stage, offload, piece):
    """The temperature after two steps."""
    torch.manual_seed(0)
    temperature = LearnedTemperature(0.2)
    objective = Objective(siamese(tower(frozen=frozen)), {"simclr": Term(InBatch(True), InfoNCE(temperature))})
    engine = DeepSpeedEngine(stage=stage, piece=piece, offload=offload)
    engine.start(objective, SGD(1.0, momentum=0.0), Constant(), torch.device("cpu"), torch.float32)
    for index in range(2):
        engine.backward(engine(pictures(6, seed=index)))
        assert engine.step(Step(index, 2)) is not None
    (scale,) = (value for name, value in engine.weights().items() if "log_scale" in name)
    return scale.item()


def child():
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo")
    found = {
        str(frozen): [
            learned(frozen, stage, offload, piece)
            for stage in (1, 2, 3)
            for offload in (False, True)
            for piece in (None, 3, 4)
        ]
        for frozen in (True, False)
    }
    print("found", json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.slow
def test_a_temperature_is_learned_in_pieces():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    out = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout[out.stdout.index("found ") + 6 :].splitlines()[0])
    for values in found.values():
        assert values[0] != pytest.approx(1.6094379, abs=1e-3), "it moved"
        assert values == pytest.approx([values[0]] * len(values), rel=1e-5)


if __name__ == "__main__":
    child()
