import pytest
import torch
from safetensors.torch import save_file

from cl.encoders.loaded import loaded
from cl.encoders.small_resnet import small_resnet
from cl.errors import ConfigError


def test_a_trunk_has_the_weights_of_the_file(tmp_path):
    other = small_resnet((4, 4, 8, 8))
    save_file(other.state_dict(), tmp_path / "trunk.safetensors")
    trunk = loaded(small_resnet((4, 4, 8, 8)), str(tmp_path / "trunk.safetensors"))
    for name, value in other.state_dict().items():
        assert torch.equal(trunk.state_dict()[name], value)


def test_what_is_not_such_a_trunk_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        loaded(small_resnet(), str(tmp_path / "absent"))
    save_file({"w": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"does not hold such a ResNet: .*Missing key"):
        loaded(small_resnet(), str(tmp_path / "other"))
    (tmp_path / "garbage").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="does not hold"):
        loaded(small_resnet(), str(tmp_path / "garbage"))
