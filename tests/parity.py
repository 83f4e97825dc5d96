"""One training and another, step by step: what is theirs after a few steps, and how far the two may be apart."""

import hashlib

import torch
from recipes import BATCH

from cl.components import Step

STEPS, WORLD = 3, 2
SMALL_STEPS = {
    "cl.train.optimizer": "@SGD()",
    "SGD.lr": 0.005,
    "SGD.weight_decay": 1e-4,
}
"""Of SGD, which does not turn the rounding of a zero gradient into a visible step, as AdamW would."""


def train(training, gradient_of=lambda parameter: parameter.grad):
    """The last step's gradients, and the weights and buffers after it."""
    training.start()
    torch.manual_seed(7)  # keys are shuffled as rank 0 says
    batches = training.views.iterate(training.place)
    for index in range(STEPS):
        step, applied = Step(index, STEPS), None
        while applied is None:
            output = training.engine(next(batches))
            training.engine.backward(output)
            if len(training.engine.outputs) == training.engine.accumulate:
                trained = [(name, p) for name, p in training.objective.named_parameters() if p.requires_grad]
                gradients = {name: gradient_of(parameter).clone() for name, parameter in trained}
            applied = training.engine.step(step)
        for hook in training.hooks:
            hook(training.objective, applied, step)
    buffers = {name: buffer.clone() for name, buffer in training.objective.named_buffers()}
    return {"gradients": gradients, "weights": training.engine.weights(), "buffers": buffers}


def train_sharded(training):
    """The same of one of several ranks, and a digest of every parameter that it has itself, of frozen copies too."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    found, own = train(training, safe_get_full_grad), {}
    for name, parameter in training.objective.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            own[name] = hashlib.sha256(parameter.detach().contiguous().numpy().tobytes()).hexdigest()
    return found | {"own": own}


class Reordered:
    """The same batches, the rows of a piece as ranks have them."""

    def __init__(self, views, piece):
        self.views = views
        self.piece = piece

    def iterate(self, place):
        for views in self.views.iterate(place):
            pieces = torch.arange(BATCH).split(self.piece or BATCH)
            order = torch.cat([rows[rank::WORLD] for rows in pieces for rank in range(WORLD)])
            yield views.made().part(order)


def errors(found, wanted):
    """By tensor, the error in units of what is allowed.

    That is 1e-5 of the tensor's norm, or of a thousandth of all tensors'. A gradient that is zero but for rounding
    (of a bias in front of batch normalisation) may be any number of that size.
    """
    wanted = {name: value.double() for name, value in wanted.items()}
    whole = float(torch.stack([value.norm() for value in wanted.values()]).norm())
    for name, value in wanted.items():
        size, apart = float(value.norm()), float((found[name].double() - value).norm())
        yield name, apart / (1e-7 * whole if size < 1e-7 * whole else 1e-5 * max(size, 1e-3 * whole))


OWN_STATISTICS = ("shuffled", "split")
"""Variants whose batch statistics are each rank's own."""


def worst(found, wanted, what, variant="plain"):
    compared = {
        name: value
        for name, value in wanted[what].items()
        if value.is_floating_point()
        and ".ring." not in name  # a queue's rows follow the batch's order
        and not (variant in OWN_STATISTICS and "running" in name)
    }
    return max(errors(found[what], compared), key=lambda error: error[1])


def compare(found, wanted, control, recipe, variant, stage):
    first, *others = found
    assert all(other["weights"] == {} for other in others), "the weights are rank 0's to keep"
    for what in ("gradients", "weights"):
        assert first[what].keys() == wanted[what].keys()
        name, error = worst(first, wanted, what, variant)
        print(f"{recipe} {variant} {stage} {what}: {error:.2f} of the bound ({name}), reordered {control[what]:.2f}")
        assert control[what] < 100 and error <= max(1, 4 * control[what]), (what, name)
    for other in others:
        assert other["own"] == first["own"]
        for name, value in first["gradients"].items():
            assert torch.equal(value, other["gradients"][name]), name
        for name in wanted["buffers"]:
            shared = variant not in OWN_STATISTICS or "running" not in name
            assert torch.equal(first["buffers"][name], other["buffers"][name]) == shared, name
    for name, value in wanted["buffers"].items():
        if ".ring." in name and variant not in OWN_STATISTICS:  # whose batches are in another order
            torch.testing.assert_close(first["buffers"][name], value, rtol=1e-5, atol=1e-5)
