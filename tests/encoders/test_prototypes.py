import pytest
import torch
import torch.nn.functional as F
from tiny import trunk

from cl.encoders.mlp import MLP
from cl.encoders.prototypes import Prototypes
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower


def test_scores_are_cosines_with_the_prototypes():
    head, features = Prototypes(MLP((8, 4)), 6), torch.randn(5, 8)
    scores, z = head(features), head.projector(features)
    for i in range(5):
        for j in range(6):
            cosine = F.cosine_similarity(z[i], head.vectors[j], dim=0)
            torch.testing.assert_close(scores[i, j], cosine, rtol=1e-5, atol=1e-6)


def test_its_width_is_known_to_the_encoder_and_its_input_to_the_tower():
    assert siamese(Tower(trunk(), {"z": Prototypes(MLP((8, 4)), 6)}), unit_norm=False).width("z") == 6
    with pytest.raises(ValueError, match="takes 9 features"):
        net = trunk()
        net.num_features = 8
        Tower(net, {"z": Prototypes(MLP((9, 4)), 6)})
