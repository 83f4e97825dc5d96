import pytest
import torch

from cl.precision import autocast_dtype, has_bfloat16, wide

CPU = torch.device("cpu")


def test_precision_by_name():
    assert autocast_dtype("float32", CPU) == torch.float32
    assert autocast_dtype("bfloat16", CPU) == torch.bfloat16


def test_auto_is_what_the_machine_has(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert has_bfloat16(CPU) is has
        assert autocast_dtype("auto", CPU) == (torch.bfloat16 if has else torch.float32)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_wide_rows_are_float32_or_more(given, found):
    assert wide(torch.ones(1, dtype=given)).dtype == found
