"""Models of named sizes with random weights, built by the package's own constructor."""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, PreTrainedConfig

from minigpt4.models.encoders.eva_clip_g import EvaClipG, EvaSizes
from minigpt4.models.minigpt4 import MiniGPT4
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.models.qformer import build_qformer, to_original_key
from minigpt4.prompts.sample import Batch

# Words in both tokenizers' vocabularies.
WORDS = ("a", "red", "green", "blue", "small", "large", "star", "circle", "and", "above")
TOKENIZERS = Path(__file__).resolve().parent.parent / "minigpt4" / "assets" / "tiny"


@dataclass(frozen=True)
class Size:
    """What a named size means.

    Attributes:
        llm: the language model's config.
        vit: overrides of EVA-ViT-g's sizes.
        batch: images a step.
        v2: whether it is MiniGPT-v2: 448 pixels, four patches a token, LoRA of rank `lora_r`, no Q-Former.
        lora_r: of the queries and values.
    """

    llm: PreTrainedConfig
    batch: int
    vit: dict[str, Any] = field(default_factory=dict)
    v2: bool = False
    lora_r: int = 64

    @property
    def image_size(self) -> int:
        return 448 if self.v2 else 224

    @property
    def image_shape(self) -> tuple[int, int]:
        """Tokens of an image before the projection, and their width."""
        patches = (self.image_size // self.vit_sizes["patch_size"]) ** 2
        return (patches // 4, 4 * self.vit_sizes["embed_dim"]) if self.v2 else (32, 768)

    @property
    def vit_sizes(self) -> dict[str, Any]:
        return {**asdict(EvaSizes()), **self.vit}


SMALL_LLAMA = LlamaConfig(
    vocab_size=32_000,
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=8,
    num_attention_heads=8,
)
GEMMA_2B = GemmaConfig(
    vocab_size=256_000,
    hidden_size=2048,
    intermediate_size=16_384,
    num_hidden_layers=18,
    num_attention_heads=8,
    num_key_value_heads=1,
    head_dim=256,
)
LLAMA_2_7B = LlamaConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
)
TINY_GEMMA = GemmaConfig(
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=32,
)
SMOLLM2_135M = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
SIZES = {
    "tiny": Size(TINY_GEMMA, batch=4, vit={"embed_dim": 64, "depth": 2, "num_heads": 2}),
    "smollm2": Size(SMOLLM2_135M, batch=8, vit={"embed_dim": 704, "depth": 12, "num_heads": 8}),
    "small": Size(SMALL_LLAMA, batch=8, vit={"embed_dim": 704, "depth": 12, "num_heads": 8}),
    "real": Size(GEMMA_2B, batch=64),
    "real-llama": Size(LLAMA_2_7B, batch=64),
    "v2": Size(LLAMA_2_7B, batch=8, v2=True),
}


def build(size: Size, folder: Path, device: torch.device, **keys: Any) -> MiniGPTBase:
    """A model of this size.

    Args:
        size: one of SIZES.
        folder: where its files go. They take little disk space: they are sparse, or share their zeros.
        device: where it runs.
        keys: of a YAML's `model:`.
    """
    folder.mkdir()
    write_vision(folder, size)
    write_language_model(folder / "llm", size.llm)
    section = {
        "vit_weights": str(folder / "vit.pth"),
        "vit_kwargs": size.vit,
        "llama_model": str(folder / "llm"),
        "llm_sanity_check": False,
        "prompt_path": "",
        **keys,
    }
    if size.v2:
        own = {
            "arch": "minigpt_v2",
            "image_size": size.image_size,
            "has_qformer": False,
            "lora_r": size.lora_r,
        }
        model = MiniGPTv2.from_config(own | section, device=device)
    else:
        own = {"arch": "minigpt4", "q_former_model": str(folder / "blip2.pth")}
        model = MiniGPT4.from_config(own | section, device=device)
    fill(model)
    return model


def write_vision(folder: Path, size: Size) -> None:
    """EVA-ViT-g's file and BLIP-2's in the published layouts; all tensors lie in the same zeros."""
    with init_empty_weights():
        encoder = EvaClipG("eva_clip_g", size.image_size, **size.vit).module
    shapes = {name: p.shape for name, p in encoder.named_parameters()}
    torch.save(zeros(shapes), folder / "vit.pth")
    if size.v2:
        return
    with init_empty_weights():
        qformer, queries = build_qformer(32, encoder.num_features)
    shapes = {to_original_key(f"Qformer.{name}"): p.shape for name, p in qformer.named_parameters()}
    for name in ("weight", "bias"):
        shapes[f"ln_vision.{name}"] = torch.Size([encoder.num_features])
    torch.save({"model": zeros(shapes | {"query_tokens": queries.shape})}, folder / "blip2.pth")


def zeros(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that share their memory, and their place in a file."""
    shared = torch.zeros(max(shape.numel() for shape in shapes.values()))
    return {name: shared[: shape.numel()].view(shape) for name, shape in shapes.items()}


def write_language_model(folder: Path, config: PreTrainedConfig) -> None:
    """A folder that transformers loads: config, a small tokenizer, and a sparse file of zero tensors."""
    family = "gemma" if "gemma" in config.model_type else "llama"
    shutil.copytree(TOKENIZERS / family, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config.save_pretrained(folder)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter in model.named_parameters():  # a tied head appears once
        start, end = end, end + 2 * parameter.numel()
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@torch.no_grad()
def fill(model: MiniGPTBase) -> None:
    """Draw all weights, the same ones in every precision: matrices small, norms near one, the rest zero."""
    for name, parameter in model.named_parameters():
        name = model.checkpoint_key(name)
        torch.manual_seed(len(name))
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, device=parameter.device) * 0.02)
        else:
            parameter.fill_(float("norm" in name.lower() and name.endswith("weight")))


def random_batches(images: int, size: Size, *, cached: bool = False) -> Iterator[Batch]:
    """Batches as the loaders return them, a few repeated: noise, with captions of 8 to 18 words."""
    rng, noise = random.Random(0), torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        captions = [" ".join(rng.choices(WORDS, k=rng.randint(8, 18))) for _ in range(images)]
        if cached:
            seen = torch.randn(images, *size.image_shape, generator=noise).bfloat16()
        else:
            shape = (images, 3, size.image_size, size.image_size)
            seen = torch.randint(0, 256, shape, generator=noise, dtype=torch.uint8)
        batches.append(Batch.from_mapping({"answer": captions}))
        batches[-1].images, batches[-1].image_counts = seen, [1] * images
    return cycle(batches)
