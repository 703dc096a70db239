"""A language model in a .gguf file gives what the same weights give in a folder."""

import pytest
import torch

from minigpt4.common.errors import ConfigError
from tests.support.gguf import write_gguf
from tests.support.golden import build_golden_model
from tests.support.prompts import prompt_ids


def test_the_recorded_loss_from_a_gguf_file(tmp_path, golden_io) -> None:
    model = build_golden_model(llama_model=str(write_gguf(tmp_path / "tiny.gguf"))).eval()
    with torch.no_grad():
        loss = model({"image": golden_io["image"], "answer": golden_io["captions"]})["loss"]
    torch.testing.assert_close(loss, golden_io["loss_stage1"], rtol=0, atol=1e-4)
    assert prompt_ids(model.prompts, "a dog") == [1, 354, 356, 282, 351]
    assert 2 in model.stop_ids  # transformers 5.4 takes BOS for another end in such files
    assert {p.dtype for p in model.llama_model.parameters()} == {torch.float32}


def test_a_file_that_is_no_gguf(tmp_path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=r"^model\.llama_model: could not load .*"):
        build_golden_model(llama_model=str(tmp_path / "x.gguf"))
