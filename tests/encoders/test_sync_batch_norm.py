"""Batch normalisation over two processes is that of one with all rows; and what it takes the place of stays itself."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from cl.encoders.norms import BatchNorm, SplitBatchNorm
from cl.encoders.sync_batch_norm import SyncBatchNorm, synchronise
from cl.encoders.timm_trunk import timm_trunk
from cl.errors import ConfigError


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "densenet121"])
@pytest.mark.parametrize("training", [True, False])
def test_a_trunk_computes_what_it_did(name, training):
    torch.manual_seed(0)
    trunk = timm_trunk(name).train(training)
    other = deepcopy(trunk)
    synchronise(other)
    assert other.state_dict().keys() == trunk.state_dict().keys()
    assert sum(isinstance(module, SyncBatchNorm) for module in other.modules()) > 10
    pictures = torch.rand(4, 3, 32, 32)
    torch.manual_seed(1)
    wanted = trunk(pictures)
    torch.manual_seed(1)
    assert torch.equal(other(pictures), wanted)


def test_split_norms_stay_and_norms_of_ones_own_are_refused():
    class Own(nn.BatchNorm2d):
        pass

    kept = nn.Sequential(SplitBatchNorm(3, splits=2), nn.BatchNorm1d(3))
    synchronise(kept)
    assert [type(each) for each in kept] == [SplitBatchNorm, SyncBatchNorm]
    with pytest.raises(ConfigError, match=r"Own.*sync_batch_norm = False"):
        synchronise(nn.Sequential(Own(3)))


NORMS = {
    "of pictures": lambda: nn.BatchNorm2d(3),
    "of rows": lambda: BatchNorm(3),
    "with an activation": lambda: BatchNormAct2d(3),
}


def batch(name, dtype):
    shape = (8, 3) if name == "of rows" else (8, 3, 5, 5)
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(5)) + 100).to(dtype)


def run(norm, x):
    """Outputs, gradients and running statistics."""
    torch.manual_seed(2)
    with torch.no_grad():
        norm[0].weight.uniform_(0.5, 2)
    x = x.requires_grad_()
    y = norm(x)
    constant = 0 if x.dtype == torch.float32 else 10  # a channel's, of which the rows' gradients have nothing
    weights = constant + torch.arange(3.0).view(1, 3, *[1] * (x.ndim - 2)) * x.detach().float().sin()
    (y.float() * weights).sum().backward()
    buffers = (norm[0].running_mean, norm[0].running_var)
    return {"y": y.detach(), "x": x.grad, "parameters": [norm[0].weight.grad, norm[0].bias.grad], "buffers": buffers}


def child(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for name, make in NORMS.items():
        for dtype in (torch.float32, torch.bfloat16):
            norm = nn.Sequential(make())
            synchronise(norm)
            torch.save(run(norm, batch(name, dtype)[rank::2].clone()), f"{folder}/{name} {dtype} {rank}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = [[sys.executable, __file__, str(rank), str(folder)] for rank in range(2)]
    assert [each.wait(timeout=120) for each in [subprocess.Popen(each, env=environment) for each in words]] == [0, 0]
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NORMS)
def test_two_processes_are_one_with_all_rows(pair, name, dtype):
    wanted = run(nn.Sequential(NORMS[name]()), batch(name, dtype))
    found = [torch.load(pair / f"{name} {dtype} {rank}", weights_only=True) for rank in range(2)]
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    for what in ("y", "x"):
        rows = torch.stack([each[what] for each in found], dim=1).flatten(0, 1)
        torch.testing.assert_close(rows, wanted[what], rtol=bound, atol=bound)
    for number, gradient in enumerate(wanted["parameters"]):  # which data parallelism averages
        torch.testing.assert_close(
            sum(each["parameters"][number] for each in found), gradient, rtol=bound, atol=5 * bound
        )
    sums = torch.stack([each["x"].double().transpose(0, 1).flatten(1).sum(1) for each in found]).sum(0)
    assert sums.abs().max() < (1e-3 if dtype == torch.float32 else 0.3)
    for each in found:  # float32 whatever the rows are
        torch.testing.assert_close(each["buffers"], wanted["buffers"], rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    child(int(sys.argv[1]), Path(sys.argv[2]))
