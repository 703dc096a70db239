"""A language model in a .gguf file gives what the same weights give in a folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoConfig, LlamaConfig

from minigpt4.common.errors import ConfigError
from tests.support import GOLDEN
from tests.support.golden import build_golden_model
from tests.support.prompts import prompt_ids

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path) -> Path:
    """The recorded LLaMA, in float32, with its tokenizer, as llama.cpp lays such files out."""
    config = AutoConfig.from_pretrained(GOLDEN / "llm")
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer)
    for name, tensor in load_file(GOLDEN / "llm/model.safetensors").items():
        if not name.endswith("inv_freq"):  # computed, not learned
            add_tensor(writer, name, tensor.float().numpy(), config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: GGUFWriter) -> None:
    pieces = SentencePieceProcessor(model_file=str(GOLDEN / "llm/tokenizer.model"))
    ids = range(pieces.get_piece_size())
    # llama.cpp's kinds of tokens: 1 text, 2 unknown, 3 control, 6 byte.
    tests = ((pieces.is_control, 3), (pieces.is_unknown, 2), (pieces.is_byte, 6))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i) for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types([next((kind for test, kind in tests if test(i)), 1) for i in ids])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def add_tensor(writer: GGUFWriter, name: str, values: np.ndarray, config: LlamaConfig) -> None:
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        part = rest.removesuffix(".weight")
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            # The halves of each head that rotate together stand beside each other there.
            heads = values.reshape(config.num_attention_heads, 2, -1, values.shape[1])
            values = heads.swapaxes(1, 2).reshape(values.shape)
        name = f"blk.{layer}.{PARTS[part]}.weight"
    writer.add_tensor(NAMES.get(name, name), np.ascontiguousarray(values))


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
