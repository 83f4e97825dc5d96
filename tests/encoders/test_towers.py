import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SIDE, pictures, tower, trunk
from torch import nn

from cl.components import Encoder
from cl.encoders.dual import dual
from cl.encoders.mlp import MLP
from cl.encoders.norms import BatchNorm
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.encoders.towers import Towers
from cl.types import Views


class Words(nn.Module):
    """Token ids to the mean of their embeddings."""

    def __init__(self, f=8):
        super().__init__()
        self.table = nn.Embedding(11, f)

    def forward(self, tokens):
        return self.table(tokens).mean(dim=1)


def pairs(b):
    views = pictures(b, views=1)
    return Views((views.crops[0], torch.arange(b * 5).view(b, 5) % 11), (0, 1), views.group, views.sample, views.keys)


def counted(module):
    """How often a module runs, and over how many rows."""
    runs = []
    module.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    return runs


@given(st.integers(1, 5), st.integers(1, 3), st.booleans(), st.booleans())
def test_siamese_rows_are_the_tower_of_every_view(b, views, joint, unit_norm):
    net = tower()
    encoder = siamese(net, views=views, joint=joint, unit_norm=unit_norm)
    assert isinstance(encoder, Encoder)
    assert encoder.embeddings == {"z"} and encoder.views == set(range(views)) and encoder.modalities == 1
    batch = pictures(b, views)
    found = encoder(batch)["z"]
    expected = torch.cat([net.heads["z"](net.trunk((crop - 0.5) / 0.25)) for crop in batch.crops])
    if unit_norm:
        expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(found.q.norm(dim=1), torch.ones(views * b))
    torch.testing.assert_close(found.q, expected)
    assert found.k is None and found.q_views == tuple(range(views))
    assert found.q_ids.tolist() == [[s, s, view] for view in range(views) for s in range(b)]
    assert encoder.provides == ({"unit norm"} if unit_norm else {"free length"})


def test_joint_and_one_by_one_differ_by_batch_norm_alone():
    batch = pictures(6)
    batch = Views((batch.crops[0], batch.crops[1] ** 3), (0, 1), batch.group, batch.sample)
    in_head = Tower(trunk(), {"z": MLP((8, 4), norm_last=BatchNorm)})
    for net, same in ((tower(), True), (tower(norm=BatchNorm), False), (in_head, False)):
        joint, single = siamese(net, joint=True)(batch)["z"].q, siamese(net, joint=False)(batch)["z"].q
        assert torch.allclose(joint, single, atol=1e-6) == same


def test_crops_of_other_sizes_run_apart():
    net = Tower(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8)), {"z": nn.Linear(8, 4)})
    runs = counted(net.trunk)
    whole = pictures(3, views=3)
    small = whole.crops[1][..., :2, :2]
    batch = Views((whole.crops[0], small, whole.crops[2]), (0, 1, 2), whole.group, whole.sample)
    found = siamese(net, views=3)(batch)["z"]
    assert runs == [6, 3] and found.q_views == (0, 1, 2)
    torch.testing.assert_close(found.q, siamese(net, views=3, joint=False)(batch)["z"].q)


def test_routes_that_share_a_trunk_run_it_once():
    net = Tower(trunk(), {"clip": nn.Linear(8, 4), "ssl": nn.Linear(8, 3)})
    runs = counted(net.trunk)
    routes = [(0, "image", "clip", "clip"), (0, "image", "ssl", "ssl"), (1, "image", "ssl", "ssl")]
    encoder = Towers({"image": net}, routes)
    found = encoder(pictures(5))
    assert runs == [10]
    assert found["clip"].q.shape == (5, 4) and found["clip"].q_views == (0,)
    assert found["ssl"].q.shape == (10, 3) and found["ssl"].q_views == (0, 1)


def test_slip_is_two_embeddings_of_one_encoder():
    image = Tower(trunk(), {"clip": nn.Linear(8, 4), "ssl": nn.Linear(8, 3)})
    text = Tower(Words(), {"clip": nn.Linear(8, 4)})
    routes = [
        (0, "image", "clip", "clip"),
        (1, "text", "clip", "clip"),
        (2, "image", "ssl", "ssl"),
        (3, "image", "ssl", "ssl"),
    ]
    encoder = Towers({"image": image, "text": text}, routes)
    assert encoder.embeddings == {"clip", "ssl"} and encoder.views == {0, 1, 2, 3} and encoder.modalities == 2
    batch = pictures(3, views=3)
    tokens = torch.ones(3, 5, dtype=torch.int64)
    batch = Views((batch.crops[0], tokens, *batch.crops[1:]), (0, 1, 2, 3), batch.group, batch.sample)
    runs = counted(image.trunk)
    found = encoder(batch)
    assert found["clip"].q_views == (0, 1) and found["ssl"].q_views == (2, 3) and sum(runs) == 9


def test_views_that_are_not_there_are_passed_over():
    found = siamese(tower(), views=3)(pictures(2, views=3).select((2, 0)))["z"]
    assert found.q_views == (0, 2) and found.q_ids[:, 2].tolist() == [0, 0, 2, 2]


def test_dual_is_a_picture_and_a_text():
    encoder = dual(tower(), Tower(Words(), {"z": nn.Linear(8, 4)}))
    batch = pairs(3)
    found = encoder(batch)["z"]
    assert encoder.modalities == 2 and found.q_views == (0, 1)
    torch.testing.assert_close(found.q[:3], encoder.embed(batch.crops[0], 0))
    torch.testing.assert_close(found.q[3:], encoder.embed(batch.crops[1], 1))
    assert encoder.features(batch.crops[1], 1).shape == (3, 8)
    assert encoder.trunks().keys() == {"image", "text"}


def test_features_come_before_the_head():
    encoder = siamese(tower())
    x = pictures(3).crops[0]
    features = encoder.features(x, 1)
    torch.testing.assert_close(features, encoder.towers["image"](x))
    torch.testing.assert_close(encoder.embed(x, 1), encoder.finish(encoder.towers["image"].heads["z"](features)))
    assert encoder.trunks() == {"image": encoder.towers["image"].trunk}
    with pytest.raises(ValueError, match="no route for view 5"):
        encoder.features(x, 5)


def test_a_picture_is_normalised_by_the_tower():
    net = Tower(nn.Flatten(), {"z": nn.Identity()}, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    x = torch.rand(2, 3, SIDE, SIDE)
    expected = torch.stack([(x[:, c] - 0.1 * (c + 1)) / 2**c for c in range(3)], dim=1)
    torch.testing.assert_close(net(x), expected.flatten(1))
    assert "mean" not in net.state_dict()


@pytest.mark.parametrize("when", ["as built", "after train"])
def test_a_frozen_tower_stays_in_eval_and_gets_no_gradient(when):
    image, text = tower(norm=BatchNorm, frozen=True), Tower(Words(), {"z": nn.Linear(8, 4)})
    encoder = dual(image, text)
    if when == "after train":
        encoder.train()
    assert not any(module.training for module in image.modules()) and text.training
    before = copy.deepcopy(image.state_dict())
    encoder(pairs(4))["z"].q.sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in image.parameters())
    assert all(p.grad is not None for p in text.parameters())
    assert all(torch.equal(value, before[name]) for name, value in image.state_dict().items())


def test_zero_rows_and_bfloat16_rows_come_out_float32_and_finite():
    encoder = siamese(tower())
    assert encoder.finish(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.float32
    z = torch.zeros(2, 4, requires_grad=True)
    unit = encoder.finish(z)
    unit.sum().backward()
    assert torch.equal(unit, torch.zeros(2, 4)) and torch.isfinite(z.grad).all()


def test_a_wrong_route_is_named():
    with pytest.raises(ValueError, match=r"route of view 1 names tower 'image' with head 'y'.*'image': \['z'\]"):
        Towers({"image": tower()}, [(0, "image", "z", "z"), (1, "image", "y", "z")])
    with pytest.raises(ValueError, match="names tower 'text'"):
        Towers({"image": tower()}, [(0, "text", "z", "z")])


class Says(nn.Flatten):
    num_features = 8


def test_a_head_for_some_of_the_views_gets_theirs():
    net = Tower(trunk(), {"some": MLP((8, 4), norm_last=BatchNorm), "all": MLP((8, 4), norm_last=BatchNorm)})
    whole = pictures(5, views=3)
    routes = [(2, "image", "some", "a"), (0, "image", "some", "a"), *((v, "image", "all", "b") for v in (1, 2, 0))]
    encoder = Towers({"image": net}, routes, unit_norm=False)
    found = encoder(whole)
    x = [net(crop) for crop in whole.crops]
    first, last = net.heads["some"](torch.cat([x[0], x[2]])).chunk(2)
    torch.testing.assert_close(found["a"].q, torch.cat([last, first]))
    zero, one, two = net.heads["all"](torch.cat(x)).chunk(3)
    torch.testing.assert_close(found["b"].q, torch.cat([one, two, zero]))


def test_heads_that_do_not_fit_their_trunk_are_refused():
    for head in (MLP((7, 4)), nn.Linear(7, 4)):
        with pytest.raises(ValueError, match=r"'z' takes 7 .* makes 8, so its first width must be 8"):
            Tower(Says(), {"z": head})
    Tower(Says(), {"z": MLP((8, 4)), "y": nn.Identity()})
    Tower(nn.Flatten(), {"z": MLP((7, 4))})


def test_the_width_of_an_embedding_is_its_heads():
    assert siamese(tower(d=3)).width("z") == 3
    assert siamese(Tower(trunk(), {"z": nn.Identity()})).width("z") is None
    with pytest.raises(ValueError, match=r"embedding 'z' has rows of widths \[3, 4\]"):
        dual(tower(d=3), tower(d=4))
