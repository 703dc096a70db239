"""`.safetensors` files that are written tensor by tensor."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from minigpt4.weights.safetensors_file import DTYPES, write_safetensors


def test_written_tensors_are_read_by_the_format_s_own_library(tmp_path) -> None:
    tensors = {
        "transposed": torch.randn(3, 4).T,
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 2),
        **{str(dtype): torch.ones(3).to(dtype) for dtype in DTYPES},
    }
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "a.safetensors", tensors, dtypes)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensors_are_written_in_the_dtype_that_is_said(tmp_path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"a": torch.tensor([1 / 3])}, {"a": torch.bfloat16})
    assert load_file(tmp_path / "a.safetensors")["a"].equal(torch.tensor([1 / 3], dtype=torch.bfloat16))
    with pytest.raises(FileExistsError):
        write_safetensors(tmp_path / "a.safetensors", {}, {})
