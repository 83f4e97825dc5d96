"""Blocks that compute their activations again give what blocks that keep them give, and keep less."""

from copy import deepcopy

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from cl.encoders.recomputed import recompute_blocks
from cl.encoders.small_resnet import small_resnet
from cl.encoders.text_transformer import TextTransformer, _Block
from cl.encoders.timm_trunk import timm_trunk
from cl.encoders.torchvision_trunk import torchvision_trunk

VIT = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2}
TRUNKS = {
    "small ResNet": lambda: small_resnet((4, 8, 8, 16)),
    "ResNet": lambda: timm_trunk("resnet26", small_pictures=True),
    "ResNet of torchvision": lambda: torchvision_trunk("resnet18"),
    "ConvNeXt": lambda: timm_trunk("convnext_atto", {"drop_path_rate": 0.2}),
    "ViT that drops": lambda: timm_trunk("vit_tiny_patch16_224", VIT | {"proj_drop_rate": 0.3, "drop_path_rate": 0.3}),
    "text": lambda: TextTransformer(50, 16, 24, layers=4, heads=2),
}


def run(trunk, inputs, precision):
    """Features, gradients, buffers, and bytes that are kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        features = trunk(inputs)
    features.float().square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in trunk.named_parameters()}
    drawn = torch.rand(1)
    return {"z": features, "r": drawn, **gradients, **dict(trunk.named_buffers())}, sum(kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRUNKS)
def test_the_same_gradient_and_statistics_of_less_that_is_kept(name, precision):
    torch.manual_seed(0)
    plain = TRUNKS[name]()
    inputs = torch.randint(1, 50, (6, 16)) if name == "text" else torch.rand(6, 3, 32, 32)
    again = deepcopy(plain)
    recompute_blocks(again)
    assert again.state_dict().keys() == plain.state_dict().keys()
    (wanted, much), (found, little) = run(plain, inputs, precision), run(again, inputs, precision)
    assert found.keys() == wanted.keys()
    for each, value in wanted.items():
        assert torch.equal(found[each], value), each
    weights = sum(p.nbytes for p in plain.parameters())
    assert little - weights < 0.6 * (much - weights), (little, much)


def test_a_copy_runs_itself():
    trunk = small_resnet((4, 8, 8, 16))
    recompute_blocks(trunk)
    copy = deepcopy(trunk)
    with torch.no_grad():
        for parameter in copy.layer2.parameters():
            parameter.zero_()
    pictures = torch.rand(2, 3, 32, 32)
    assert not torch.equal(copy(pictures), trunk(pictures))
    copy(pictures).sum().backward()
    assert copy.layer2[0].conv1.weight.grad is not None and trunk.layer2[0].conv1.weight.grad is None


@pytest.mark.parametrize(("name", "kind", "number"), [("ViT that drops", Block, 4), ("text", _Block, 4)])
def test_every_block_and_nothing_else_is_run_again(name, kind, number):
    trunk = TRUNKS[name]()
    recompute_blocks(trunk)
    changed = [module for module in trunk.modules() if "forward" in vars(module)]
    assert len(changed) == number and all(isinstance(module, kind) for module in changed)


def test_what_has_no_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear is not made of blocks"):
        recompute_blocks(nn.Linear(2, 2))
