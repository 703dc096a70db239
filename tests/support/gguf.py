"""The recorded LLaMA as a .gguf file."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoConfig, LlamaConfig

from tests.support import GOLDEN

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
