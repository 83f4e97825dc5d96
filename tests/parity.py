"""One training and another, step by step: what is theirs after a few steps, and how far the two may be apart."""

import hashlib
import math
from contextlib import nullcontext

import torch
from recipes import BATCH
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cl.components import Step

STEPS, WORLD = 3, 2
SMALL_STEPS = {
    "cl.train.optimizer": "@SGD()",
    "SGD.lr": 0.005,
    "SGD.weight_decay": 1e-4,
}
"""Of SGD, which does not turn the rounding of a zero gradient into a visible step, as AdamW would."""


class Float64(TorchDispatchMode):
    """Within, what meets float64 is float64: networks compute in it, of float32 parameters and to float32 gradients.

    Not so what is computed of parameters alone, or in place.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = args, kwargs or {}
        met = {each.dtype for each in tree_leaves(given) if isinstance(each, torch.Tensor)}
        # A text begins with its table of tokens, which meets nothing.
        mixed = met >= {torch.float32, torch.float64} or func is torch.ops.aten.embedding.default
        if mixed and not func._schema.is_mutable:
            given = tree_map(as_float64, given)
        args, kwargs = given
        return func(*args, **kwargs)


class Convolutions(TorchFunctionMode):
    """Beside it: torch compares the types of a convolution's input and bias before it gets there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.conv2d and args[0].dtype == torch.float64 and args[2] is not None:
            args = tree_map(as_float64, args)
        return func(*args, **(kwargs or {}))


def as_float64(value):
    return value.double() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def train(training, gradient_of=lambda parameter: parameter.grad, exact=True):
    """The last step's gradients, and the weights and buffers after it; `exact`: computed in float64."""
    if exact:  # pictures meet their mean and deviation first; running statistics that were cast would be lost
        for module in training.objective.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, as_float64(buffer))
    training.start()
    torch.manual_seed(7)  # keys are shuffled as rank 0 says
    batches = training.views.iterate(training.place)
    for index in range(STEPS):
        step, applied = Step(index, STEPS), None
        while applied is None:
            views = next(batches)
            with Float64() if exact else nullcontext(), Convolutions() if exact else nullcontext():
                output = training.engine(views)
                training.engine.backward(output)
            if len(training.engine.outputs) == training.engine.accumulate:
                trained = [(name, p) for name, p in training.objective.named_parameters() if p.requires_grad]
                gradients = {name: gradient_of(parameter).clone() for name, parameter in trained}
            applied = training.engine.step(step)
        for hook in training.hooks:
            hook(training.objective, applied, step)
    rows = [each for made in applied.embeddings.values() for each in (made.q, made.keys)]
    assert {each.dtype for each in rows} == {torch.float64 if exact else torch.float32}
    assert {parameter.dtype for parameter in training.objective.parameters()} == {torch.float32}
    buffers = {name: buffer.clone() for name, buffer in training.objective.named_buffers()}
    return {"gradients": gradients, "weights": training.engine.weights(), "buffers": buffers}


def train_sharded(training, exact=True):
    """The same of one of several ranks, and a digest of every parameter that it has itself, of frozen copies too."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    found, own = train(training, safe_get_full_grad, exact), {}
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


NOISE = 1e-7
"""In float32, of all tensors' norm: what a gradient that is zero but for rounding may be."""


def errors(found, wanted, noise=0.0):
    """By tensor, the error in bounds: 1e-5 of its norm, or of a thousandth of all tensors' together if that is more."""
    wanted = {name: value.double() for name, value in wanted.items()}
    whole = float(torch.stack([value.norm() for value in wanted.values()]).norm())
    for name, value in wanted.items():
        size, apart = float(value.norm()), float((found[name].double() - value).norm())
        yield name, apart / (noise * whole if size < noise * whole else 1e-5 * max(size, 1e-3 * whole))


COMPARED = ("gradients", "weights")
OWN_STATISTICS = ("shuffled", "split")
"""Variants whose batch statistics are each rank's own."""


def worst(found, wanted, what, variant, noise=0.0):
    compared = {
        name: value
        for name, value in wanted[what].items()
        if value.is_floating_point()
        and ".ring." not in name  # a queue's rows follow the batch's order
        and not (variant in OWN_STATISTICS and "running" in name)
    }
    every = list(errors(found[what], compared, noise))
    assert all(math.isfinite(error) for _, error in every)
    return max(every, key=lambda error: error[1])


EXACT = dict.fromkeys(COMPARED, 0.5)
"""Of the bound: the rounding of float32 parameters and of each rank's gradients, of which 0.43 was seen on four."""


def itself(wanted, again, variant="plain"):
    """How many bounds ranks may be away from one process in float32: four times what it is from itself, reordered."""
    found = {what: worst(again, wanted, what, variant, NOISE)[1] for what in COMPARED}
    assert max(found.values()) < 100  # one end of a kink of max pooling or the other is tens of bounds
    return {what: max(1.0, 4 * error) for what, error in found.items()}


def compare(found, wanted, allowed, recipe, variant, stage):
    """Fails where ranks, of which `found` has one's each, are more than `allowed` bounds away from one process."""
    first, *others = found
    assert all(other["weights"] == {} for other in others), "the weights are rank 0's to keep"
    for what in COMPARED:
        assert first[what].keys() == wanted[what].keys()
        name, error = worst(first, wanted, what, variant, 0.0 if allowed is EXACT else NOISE)
        print(f"{recipe} {variant} {stage} {what}: {error:.3f} of the bound ({name}), {allowed[what]:.2f} allowed")
        assert error <= allowed[what], (what, name)
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
