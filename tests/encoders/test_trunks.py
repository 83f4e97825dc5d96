"""The trunks by name, and the small ones."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.resnet import ResNet

from cl.encoders.mlp import MLP
from cl.encoders.norms import BatchNorm, GroupNorm, SplitBatchNorm
from cl.encoders.small_resnet import small_resnet
from cl.encoders.timm_trunk import timm_trunk
from cl.encoders.torchvision_trunk import torchvision_trunk
from cl.encoders.tower import Tower
from cl.errors import ConfigError

PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_small_resnet_keeps_a_map_and_timms_keys():
    trunk = small_resnet((4, 8, 8, 16)).eval()
    maps = []
    trunk.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert trunk(PICTURES).shape == (2, 16) and maps == [(2, 16, 4, 4)]
    timms = timm.create_model("resnet18", num_classes=0).state_dict().keys()
    assert {name for name in trunk.state_dict() if not name.startswith("layer")} <= timms
    assert all(name in timms for name in trunk.state_dict() if "downsample" not in name)


def test_the_stem_is_as_wide_as_the_first_stage():
    trunk = small_resnet((4, 8, 8, 16), stride=2)
    assert trunk.conv1.weight.shape == (4, 3, 3, 3) and trunk.bn1.weight.shape == (4,)
    assert trunk.layer1[0].downsample is None
    maps = []
    trunk.layer1.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    trunk(PICTURES)
    assert maps == [(2, 4, 16, 16)]


def test_small_resnet_has_1_2_million_parameters():
    assert 1.1e6 < sum(p.numel() for p in small_resnet().parameters()) < 1.3e6


@pytest.mark.parametrize("norm", [BatchNorm, GroupNorm, SplitBatchNorm])
def test_small_resnet_is_normalised_as_asked(norm):
    trunk = small_resnet((8, 8, 16, 16), norm=norm)
    found = {type(m) for m in trunk.modules() if "Norm" in type(m).__name__}
    assert found == {norm}


def test_group_norm_makes_a_trunk_batch_independent():
    trunk = small_resnet((8, 8, 16, 16), norm=GroupNorm).train()
    torch.testing.assert_close(trunk(PICTURES)[:1], trunk(PICTURES[:1]), rtol=1e-4, atol=1e-5)


def test_small_resnet_has_four_stages():
    with pytest.raises(ValueError, match="four widths"):
        small_resnet((8, 8, 8))


def test_timm_by_name():
    trunk = timm_trunk("resnet10t", small_pictures=False).eval()
    assert isinstance(trunk, ResNet) and trunk(PICTURES).shape == (2, trunk.num_features)
    vit = timm_trunk("vit_tiny_patch16_224", args={"img_size": 32, "depth": 1}).eval()
    assert vit(PICTURES).shape == (2, 192) and len(vit.blocks) == 1


def test_timm_with_the_stem_for_small_pictures():
    trunk = timm_trunk("resnet18", args={"channels": (4, 8, 8, 16)}, small_pictures=True).eval()
    maps = []
    trunk.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape[-2:]))
    trunk(PICTURES)
    assert maps == [(4, 4)] and trunk.conv1.kernel_size == (3, 3)


def test_timm_weights_come_from_a_file(tmp_path):
    args = {"channels": (4, 8, 8, 16)}
    trunk = timm_trunk("resnet18", args=args)
    save_file(trunk.state_dict(), tmp_path / "trunk.safetensors")
    again = timm_trunk("resnet18", args=args, weights=str(tmp_path / "trunk.safetensors"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in trunk.state_dict().items())
    with pytest.raises(ConfigError, match="there is no file"):
        timm_trunk("resnet18", args=args, weights=str(tmp_path / "absent"))


def test_wrong_names_are_configuration_errors():
    with pytest.raises(ConfigError, match=r"timm has no model 'resnet10'; near it are .*resnet10"):
        timm_trunk("resnet10")
    with pytest.raises(ConfigError, match=r"timm has no model 'no_such'\. See"):
        timm_trunk("no_such")
    with pytest.raises(ConfigError, match="is a VisionTransformer"):
        timm_trunk("vit_tiny_patch16_224", small_pictures=True)
    with pytest.raises(ConfigError, match="torchvision has no model 'no_such'"):
        torchvision_trunk("no_such")


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_0"])
def test_torchvision_models_without_one_linear_classifier_are_refused(name):
    with pytest.raises(ConfigError, match=f"torchvision's '{name}' has no classifier that could be taken off"):
        torchvision_trunk(name)


@pytest.mark.parametrize(
    "name, width", [("resnet18", 512), ("mnasnet0_5", 1280), ("convnext_tiny", 768), ("mobilenet_v3_small", 576)]
)
def test_torchvision_by_name(name, width):
    assert torchvision_trunk(name).eval()(torch.rand(1, 3, 64, 64)).shape == (1, width)


def test_a_head_fits_a_trunk_that_ends_in_a_wider_layer_than_its_features():
    wide = timm_trunk("mobilenetv3_small_050")
    assert (wide.num_features, wide.head_hidden_size) == (288, 1024)
    Tower(wide, {"z": MLP((1024, 8))})
    with pytest.raises(ValueError, match="first width must be 1024"):
        Tower(wide, {"z": MLP((288, 8))})
