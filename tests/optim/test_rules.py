import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cl.components import Step
from cl.errors import ConfigError
from cl.optim.rules import Rule, parameter_groups, set_rates
from cl.optim.schedules import Constant, Cosine


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.predictor = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


TRAINED = [name for name, p in Net().named_parameters() if p.requires_grad]
PATTERNS = st.lists(
    st.sampled_from(["trunk", r"\.weight$", "predictor", "bias", r"trunk\.0", ".*", "scale"]), max_size=4
)


def where(groups):
    return {name: group for group in groups for name in group["names"]}


@given(PATTERNS)
def test_the_first_rule_that_matches_wins(patterns):
    rules = [Rule(pattern, rate=10.0 + i) for i, pattern in enumerate(patterns)]
    winner = {name: next((rule for rule in rules if re.search(rule.pattern, name)), None) for name in TRAINED}
    idle = [rule for rule in rules if rule not in winner.values()]
    if idle:
        with pytest.raises(ConfigError, match=re.escape(repr(idle[0].pattern))):
            parameter_groups(Net(), 0.1, 0.01, rules)
        return
    groups = parameter_groups(Net(), 0.1, 0.01, rules)
    assert sorted(name for group in groups for name in group["names"]) == sorted(TRAINED)
    for name, group in where(groups).items():
        assert group["rule"].rate == (1.0 if winner[name] is None else winner[name].rate)


def test_equal_rules_do_not_merge_and_the_second_is_idle():
    with pytest.raises(ConfigError, match="decides over no trained parameter"):
        parameter_groups(Net(), 0.1, 0.01, [Rule("trunk"), Rule("trunk")])


@pytest.mark.parametrize("pattern", ["no_such", "frozen"])
def test_a_rule_that_decides_over_nothing_is_an_error(pattern):
    with pytest.raises(ConfigError, match=rf"Rule\.pattern '{pattern}'.*Names look like 'scale'"):
        parameter_groups(Net(), 0.1, 0.01, [Rule(pattern)])


def test_tensors_of_one_dimension_or_fewer_are_not_decayed():
    groups = where(parameter_groups(Net(), 0.1, 0.01, []))
    assert groups.keys() == set(TRAINED)  # the frozen ones are absent
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    assert decayed == {"trunk.0.weight", "predictor.weight"}
    assert {groups[name]["weight_decay"] for name in decayed} == {0.01}


def test_moco_decays_everything_and_a_rule_may_have_its_own_decay():
    groups = where(parameter_groups(Net(), 0.1, 0.01, [Rule("predictor", weight_decay=0.5), Rule(".*")]))
    assert groups["predictor.bias"]["weight_decay"] == 0.5
    assert {group["weight_decay"] for name, group in groups.items() if "predictor" not in name} == {0.01}


def test_rates_follow_the_rules_own_schedule_or_the_runs():
    rules = [Rule("predictor", schedule=Constant()), Rule("scale", rate=0.0), Rule("trunk", rate=2.0)]
    groups = parameter_groups(Net(), 0.1, 0.0, rules)
    for index in (0, 3, 9):
        set_rates(groups, 0.1, Cosine(), Step(index, 10))
        found, factor = {name: group["lr"] for name, group in where(groups).items()}, Cosine()(Step(index, 10))
        assert found["predictor.weight"] == 0.1  # SimSiam's fixed predictor rate
        assert found["scale"] == 0
        assert found["trunk.0.weight"] == pytest.approx(0.2 * factor)
