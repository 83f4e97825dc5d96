"""The same inputs through other libraries' losses. `pip install '.[peers]'`; what is not there is skipped."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracle import gradients
from tiny import block, rows

from cl.losses.info_nce import InfoNCE
from cl.losses.sigmoid import Sigmoid
from cl.types import Contrast

B, TEMPERATURE, SEED = st.integers(2, 40), st.sampled_from([0.07, 0.1, 0.5, 1.0]), st.integers(0, 1000)


def leaves(b, seed, count=2, d=16):
    return [rows(b, d, 10 * seed + number).requires_grad_() for number in range(count)]


def agree(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, expected in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@given(B, TEMPERATURE, SEED)
def test_simclr_is_lightlys(b, temperature, seed):
    lightly = pytest.importorskip("lightly.loss")
    z0, z1 = leaves(b, seed)
    # They normalise the rows themselves, so the gradients they pass on lie in the sphere's tangents; so do ours here.
    ours = InfoNCE(temperature)(Contrast.pairs(F.normalize(z0, dim=1), F.normalize(z1, dim=1)))
    agree(ours, lightly.NTXentLoss(temperature=temperature)(z0, z1), [z0, z1])


@given(st.integers(2, 12), TEMPERATURE, SEED)
def test_simclr_is_pytorch_metric_learnings(b, temperature, seed):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    z0, z1 = leaves(b, seed)
    ours = InfoNCE(temperature)(Contrast.pairs(F.normalize(z0, dim=1), F.normalize(z1, dim=1)))
    theirs = losses.NTXentLoss(temperature=temperature)(torch.cat([z0, z1]), torch.arange(b).repeat(2))
    agree(ours, theirs, [z0, z1])


@given(st.integers(3, 40), TEMPERATURE, SEED)
def test_supcon_is_pytorch_metric_learnings(b, temperature, seed):
    """They leave rows without positives out of the mean, as "skip" does; without any negative they return 0."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    (z,) = leaves(b, seed, count=1)
    label = torch.randint(0, 4, (b,), generator=torch.Generator().manual_seed(seed))
    label[1], label[2] = label[0], label[0] + 1
    ours = InfoNCE(temperature, lonely="skip")(Contrast.of(F.normalize(z, dim=1), label))
    agree(ours, losses.SupConLoss(temperature=temperature)(z, label), [z])


@given(B, TEMPERATURE, SEED)
def test_clip_is_open_clips(b, temperature, seed):
    from open_clip.loss import ClipLoss

    image, text = leaves(b, seed)
    scale = torch.tensor(1 / temperature)
    ours = InfoNCE(temperature)(Contrast.pairs(image, text, both_ways=True))
    agree(ours, ClipLoss()(image, text, scale), [image, text])


@given(B, TEMPERATURE, st.sampled_from([-10.0, -2.71, 0.0]), SEED)
def test_siglip_is_open_clips(b, temperature, bias, seed):
    from open_clip.loss import SigLipLoss

    image, text = leaves(b, seed)
    loss = Sigmoid(temperature, bias)
    theirs = SigLipLoss()(image, text, torch.tensor(1 / temperature), loss.bias)
    agree(loss(Contrast.pairs(image, text, both_ways=True)), theirs, [image, text, loss.bias])


@given(B, st.integers(1, 60), TEMPERATURE, SEED)
def test_moco_is_info_nce_pytorchs(b, fill, temperature, seed):
    peer = pytest.importorskip("info_nce")
    q, k = leaves(b, seed)
    queue = rows(fill, 16, seed + 5)
    stale = torch.ones(fill, dtype=torch.bool)
    contrast = Contrast(q, block(range(b), 0), k, queue, block(range(100, 100 + fill), 1, first=100), stale)
    theirs = peer.InfoNCE(temperature=temperature)(q / q.norm(dim=1, keepdim=True), k, queue)
    # They normalise all rows; these are unit, so only the gradient's part along the row differs.
    ours = InfoNCE(temperature)(contrast)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    (mine,), (expected,) = gradients(ours, [q]), gradients(theirs, [q])
    along = (mine * q).sum(dim=1, keepdim=True) * q
    torch.testing.assert_close(mine - along, expected, rtol=1e-4, atol=1e-5)
