import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import pictures, tower
from torch import nn

from cl.components import Encoder
from cl.encoders.mlp import MLP
from cl.encoders.momentum import Momentum
from cl.encoders.norms import BatchNorm, GroupNorm, SplitBatchNorm
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.losses.alignment import Alignment
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.types import Views

BATCH_FREE = {"none": None, "group": partial(GroupNorm, groups=2)}


def keys_of(encoder, views, sample):
    """The keys of one sample, whatever else is in the batch."""
    found = encoder(views)["z"]
    return found.k[found.k_ids[:, 1] == sample]


def together(sample, others):
    """A batch of one given sample and others, in which its pictures are always the same."""
    own, company = pictures(1, seed=99, first=sample), pictures(5, seed=others, first=100)
    crops = tuple(torch.cat([a, b]) for a, b in zip(company.crops, own.crops, strict=True))
    ids = torch.cat([company.sample, own.sample])
    return Views(crops, (0, 1), ids, ids)


def test_is_an_encoder_with_keys_of_its_own():
    encoder = Momentum(siamese(tower()), query_views=(0,), key_views=(1,))
    assert isinstance(encoder, Encoder)
    assert encoder.provides == {"unit norm", "momentum", "keys without gradient"}
    assert encoder.views == {0, 1} and encoder.embeddings == {"z"} and encoder.modalities == 1
    found = encoder(pictures(3))["z"]
    assert found.q_views == (0,) and found.k_views == (1,)
    assert found.q_ids[:, 2].tolist() == [0] * 3 and found.k_ids[:, 2].tolist() == [1] * 3
    torch.testing.assert_close(found.q, encoder.online(pictures(3))["z"].q[:3])
    torch.testing.assert_close(found.k, encoder.online(pictures(3))["z"].q[3:])  # the copy starts equal


def test_all_views_unless_some_are_named():
    found = Momentum(siamese(tower()))(pictures(3))["z"]
    assert found.q_views == found.k_views == (0, 1)
    assert Momentum(siamese(tower(), views=3), query_views=(0,), key_views=(2,)).views == {0, 2}


def test_the_copy_is_float32_apart_and_without_predictor():
    online = siamese(tower()).to(torch.bfloat16)
    encoder = Momentum(online, predictors={"z": MLP((4, 4))})
    assert {p.dtype for p in encoder.target.parameters()} == {torch.float32}
    assert not any("predictor" in name for name, _ in encoder.target.named_parameters())
    mine = {p.data_ptr() for p in encoder.online.parameters()}
    assert not mine & {p.data_ptr() for p in encoder.target.parameters()}
    assert "predictor" in encoder.provides


def test_the_predictor_changes_queries_only():
    predictor = MLP((4, 4))
    encoder = Momentum(siamese(tower()), predictors={"z": predictor})
    views = pictures(3)
    found = encoder(views)["z"]
    raw = encoder.online.rows(views)["z"].z
    torch.testing.assert_close(found.q, encoder.online.finish(predictor(raw)))
    torch.testing.assert_close(found.k, encoder.online.finish(raw))
    torch.testing.assert_close(encoder.embed(views.crops[0], 0), encoder.online.finish(raw[:3]))
    torch.testing.assert_close(encoder.features(views.crops[0], 0), encoder.online.features(views.crops[0], 0))
    assert encoder.trunks() == encoder.online.trunks()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["byol", "moco v3"])
def test_gradient_reaches_every_online_parameter_and_no_key(kind, shuffle):
    encoder = Momentum(siamese(tower(norm=BatchNorm)), predictors={"z": MLP((4, 6, 4))}, shuffle_keys=shuffle)
    provider, loss = (PositivesOnly(), Alignment()) if kind == "byol" else (InBatch(False), InfoNCE(0.5))
    found = encoder(pictures(6))["z"]
    assert found.q.requires_grad and not found.k.requires_grad
    sum(loss(contrast) for contrast in provider(found)).backward()
    assert all(p.grad is None and not p.requires_grad for p in encoder.target.parameters())
    for part in (encoder.online, encoder.predictors):
        assert all(p.grad is not None for p in part.parameters())
    assert all(p.grad.abs().max() > 1e-6 for p in encoder.predictors.parameters())
    assert encoder.online.towers["image"].trunk[1].weight.grad.abs().max() > 1e-6


@given(st.integers(1, 8), st.integers(0, 100), st.sampled_from(sorted(BATCH_FREE)))
def test_shuffling_changes_nothing_without_batch_statistics(b, seed, norm):
    plain = Momentum(siamese(tower(norm=BATCH_FREE[norm]), joint=False))
    shuffled = copy.deepcopy(plain)
    shuffled.shuffle_keys = True
    torch.manual_seed(seed)
    one, other = plain(pictures(b, seed=seed))["z"], shuffled(pictures(b, seed=seed))["z"]
    torch.testing.assert_close(one.k, other.k)
    assert torch.equal(one.k_ids, other.k_ids) and one.k_views == other.k_views


def test_shuffling_gives_split_batch_norm_other_company_and_restores_the_order():
    encoder = Momentum(siamese(tower(norm=partial(SplitBatchNorm, splits=4)), joint=False), shuffle_keys=True).train()
    views = pictures(16)
    found = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        found.append(encoder(views)["z"])
    assert not torch.allclose(found[0].k, found[1].k, atol=1e-3)
    assert torch.allclose(found[0].k, found[2].k)
    expected = [[s, s, view] for view in (0, 1) for s in range(16)]
    assert all(each.k_ids.tolist() == expected for each in found)
    # In eval mode company does not count, so the order alone shows.
    encoder.eval()
    straight = copy.deepcopy(encoder)
    straight.shuffle_keys = False
    torch.testing.assert_close(encoder(views)["z"].k, straight(views)["z"].k)


@pytest.mark.parametrize("norm", sorted(BATCH_FREE))
def test_a_key_does_not_depend_on_its_company(norm):
    encoder = Momentum(siamese(tower(norm=BATCH_FREE[norm]), joint=False)).train()
    torch.testing.assert_close(keys_of(encoder, together(7, 1), 7), keys_of(encoder, together(7, 2), 7))


def test_with_batch_norm_a_key_tells_of_its_company():
    """The leak that shuffling and split norms are there for; and that the test above can see one."""
    encoder = Momentum(siamese(tower(norm=BatchNorm), joint=False)).train()
    assert not torch.allclose(keys_of(encoder, together(7, 1), 7), keys_of(encoder, together(7, 2), 7), atol=1e-3)


def test_the_copys_batch_norm_runs_on_its_own_batches():
    encoder = Momentum(siamese(tower(norm=BatchNorm), joint=False), query_views=(0,), key_views=(1,)).train()
    views = pictures(6)
    encoder(views)
    assert encoder.target.towers["image"].training
    for side, crop in ((encoder.online, views.crops[0]), (encoder.target, views.crops[1])):
        layers = side.towers["image"].trunk
        torch.testing.assert_close(layers[2].running_mean, 0.1 * layers[1](layers[0]((crop - 0.5) / 0.25)).mean(dim=0))


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match=r"predictors names 'y'.*\['z'\]"):
        Momentum(siamese(tower()), predictors={"y": nn.Identity()})
    with pytest.raises(ValueError, match="view 2 has no route"):
        Momentum(siamese(tower()), key_views=(2,))


@pytest.mark.parametrize("joint, rows", [(True, [6]), (False, [3, 3])])
def test_the_predictor_sees_the_views_as_the_encoder_does(joint, rows):
    predictor, seen = MLP((4, 8, 4), norm=BatchNorm), []
    predictor.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    Momentum(siamese(tower(), joint=joint), predictors={"z": predictor})(pictures(3))
    assert seen == rows


def test_a_predictor_of_another_width_is_refused():
    for wrong in (MLP((3, 8, 4)), MLP((4, 8, 3)), nn.Linear(4, 3)):
        with pytest.raises(ValueError, match=r"predictor 'z' maps \d to \d features.*has 4"):
            Momentum(siamese(tower(d=4)), predictors={"z": wrong})
    unknown = Momentum(siamese(Tower(nn.Flatten(), {"z": nn.Identity()})), predictors={"z": MLP((3, 8, 3))})
    assert unknown.width("z") is None and Momentum(siamese(tower(d=4))).width("z") == 4
