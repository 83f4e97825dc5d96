import pytest
import torch
from tiny import pictures, tower
from torch import nn

from cl.components import Encoder
from cl.encoders.mlp import MLP
from cl.encoders.norms import BatchNorm
from cl.encoders.predict import Predict
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.engines.local import LocalEngine
from cl.losses.alignment import Alignment
from cl.negatives.positives_only import PositivesOnly
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD


def predict(**settings):
    return Predict(siamese(tower()), {"z": MLP((4, 6, 4))}, **settings)


def test_keys_are_the_rows_that_are_predicted():
    encoder, views = predict(), pictures(3)
    assert isinstance(encoder, Encoder)
    assert encoder.provides == {"unit norm", "keys without gradient", "predictor"}
    assert encoder.layout("z") == ((0, 1), (0, 1)) and encoder.views == {0, 1} and encoder.width("z") == 4
    found, raw = encoder(views)["z"], encoder.online.rows(views)["z"]
    torch.testing.assert_close(found.k, encoder.online.finish(raw.z))
    torch.testing.assert_close(found.q, encoder.online.finish(encoder.predictors["z"](raw.z)))
    assert torch.equal(found.q_ids, found.k_ids) and found.q_views == found.k_views == (0, 1)
    torch.testing.assert_close(encoder.embed(views.crops[0], 0), found.k[:3])
    assert encoder.trunks() == encoder.online.trunks() and encoder.key_order(3) is None


def test_the_gradient_stops_at_the_keys_unless_asked():
    assert not predict()(pictures(3))["z"].k.requires_grad
    loose = predict(stop_gradient=False)
    assert loose(pictures(3))["z"].k.requires_grad and "keys without gradient" not in loose.provides


def test_queries_and_keys_alone_are_those_of_the_call_and_move_statistics_once():
    encoder = Predict(siamese(tower(norm=BatchNorm)), {"z": nn.Linear(4, 4)}).train()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    both = encoder(pictures(4))["z"]
    after = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.load_state_dict(state)
    queries, keys = encoder.queries(pictures(4))["z"], encoder.keys(pictures(4))["z"]
    torch.testing.assert_close(queries.q, both.q)
    torch.testing.assert_close(keys.q, both.k)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, after[name])


def test_a_predictor_of_other_widths_or_of_nothing_is_refused():
    with pytest.raises(ValueError, match="maps 4 to 5 features, and the embedding it predicts has 4"):
        Predict(siamese(tower()), {"z": nn.Linear(4, 5)})
    with pytest.raises(ValueError, match=r"names 'y'; the encoder's embeddings are \['z'\]"):
        Predict(siamese(tower()), {"y": nn.Linear(4, 4)})


def gradients(piece):
    torch.manual_seed(0)
    encoder = Predict(siamese(Tower(tower().trunk, {"z": MLP((8, 4))})), {"z": MLP((4, 6, 4))})
    objective = Objective(encoder, {"only": Term(PositivesOnly(), Alignment())})
    engine = LocalEngine(piece=piece)
    engine.start(objective, SGD(0.1), Constant(), torch.device("cpu"), torch.float32)
    engine.backward(engine(pictures(7)))
    return {name: parameter.grad for name, parameter in objective.named_parameters()}


@pytest.mark.parametrize("piece", [1, 3])
def test_pieces_have_the_gradient_of_the_whole(piece):
    whole, cut = gradients(None), gradients(piece)
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-5, atol=1e-7)
