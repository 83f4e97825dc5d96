import oracle
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracle import contrasts, leaves, matrices
from tiny import rows

from cl.losses.decoupled import DecoupledInfoNCE
from cl.types import Contrast

TEMPERATURE = st.floats(0.1, 3.0)


@given(contrasts(), TEMPERATURE, st.sampled_from(["skip", "count"]))
def test_values_and_gradients_are_the_loops(contrast, temperature, lonely):
    def row(positives, negatives):
        if not positives:
            return None
        if not negatives:
            return 0 * positives[0]
        return torch.stack(negatives).exp().sum().log() - torch.stack(positives).mean()

    contrast, inputs = leaves(contrast)
    ours = DecoupledInfoNCE(temperature, lonely)(contrast)
    oracle.agree(ours, oracle.over_rows(contrast, temperature, row, lonely), inputs)


@given(st.integers(2, 8), TEMPERATURE, st.integers(0, 1000))
def test_is_the_authors_program(b, temperature, seed):
    """Both views' cross terms and own-view negatives, each view's loss averaged (their DCL with both directions)."""
    z0, z1 = rows(b, 5, seed).double(), rows(b, 5, seed + 1).double()
    total = 0
    for one, other in ((z0, z1), (z1, z0)):
        cross = one @ other.T
        logits = torch.cat([one @ one.T, cross], dim=1) / temperature
        own = torch.eye(b, dtype=torch.bool).repeat(1, 2)
        total = total - cross.diagonal() / temperature + logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    torch.testing.assert_close(DecoupledInfoNCE(temperature)(Contrast.pairs(z0, z1)), total.mean() / 2)


@given(st.integers(2, 8), TEMPERATURE)
def test_collapsed_is_the_log_of_the_negatives(b, temperature):
    z = F.normalize(torch.ones(b, 4, dtype=torch.float64), dim=1)
    value = DecoupledInfoNCE(temperature)(Contrast.pairs(z, z))
    torch.testing.assert_close(value, torch.tensor(2 * b - 2.0).double().log())


def test_one_group_has_no_negatives_and_no_gradient():
    z = rows(5, 3).requires_grad_()
    contrast = Contrast.of(z, torch.zeros(5, dtype=torch.int64))
    assert not (matrices(contrast)[0] & ~matrices(contrast)[1]).any()
    value = DecoupledInfoNCE(0.1)(contrast)
    value.backward()
    assert value == 0 and (z.grad == 0).all()
