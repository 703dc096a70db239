"""Tiny models, written by `minigpt4 export` in float32."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

from minigpt4.common.config import Config
from minigpt4.export.__main__ import write
from minigpt4.processors.pictures import read_picture
from minigpt4.prompts.encoder import IMAGE_ID
from minigpt4.serving import ChatModel, load
from minigpt4.serving.messages import to_dialogue
from tests.support import ROOT

FLOAT32 = ["model.llm_precision=fp32", "model.vit_precision=fp32"]
EXAMPLES = ROOT / "minigpt4/assets/tiny/examples"
PICTURES = [str(EXAMPLES / name) for name in ("cross.png", "cross-circle.png", "star-circle.png")]
QUESTION = "What is this?"
# Logits are about 15. The norm behind the encoder has another epsilon.
CLOSE = 1e-4
# Models of timm, at tiny sizes -> which language model they are tried with.
TOWERS = {"vit_base_patch16_clip_quickgelu_224.openai": "gemma", "vit_base_patch16_siglip_224.webli": "llama"}


def config(llm: str) -> str:
    return str(ROOT / f"eval_configs/minigpt4_tiny_{llm}_eval.yaml")


def export_tiny(llm: str, out: Path, form: str | None = None, *options: str) -> str:
    return write(Config(Namespace(cfg_path=config(llm), options=[*FLOAT32, *options])), out, form)


def load_tiny(llm: str) -> ChatModel:
    return load(config(llm), "cpu", FLOAT32)


def replies(model: ChatModel) -> list[str]:
    """Greedy ones, about each picture alone, and about the first two together."""
    shown = [*([one] for one in PICTURES), PICTURES[:2]]
    greedy = {"temperature": 0, "repetition_penalty": 1, "max_new_tokens": 24}
    return [model.chat(QUESTION, [Path(one) for one in names], **greedy) for names in shown]


def clip_config(root: Path, tower: str, **model: Any) -> str:
    """The YAML of a CLIP or SigLIP of two blocks with random weights, and a tiny language model."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 48, "num_heads": 4}
    vit = timm.create_model(tower, pretrained=False, num_classes=0, img_size=64, **sizes)
    state = {
        name: tensor + torch.randn_like(tensor) * (0.3 if tensor.ndim == 1 else 0.1)
        for name, tensor in vit.state_dict().items()
    }
    torch.save(state, root / "vit.pth")
    llm = TOWERS[tower]
    aligned = torch.load(ROOT / f"minigpt4/assets/tiny/{llm}_projection.pth", weights_only=True)
    width = len(aligned["model"]["llama_proj.weight"])
    trained = {
        "llama_proj.weight": torch.randn(width, 48) / 7,
        "llama_proj.bias": torch.randn(width) / 3,
        "ln_vision.weight": 1 + torch.randn(48) / 3,
        "ln_vision.bias": torch.randn(48) / 3,
    }
    torch.save({"model": trained}, root / "projection.pth")
    section = {
        "arch": "minigpt4",
        "model_type": f"tiny_{llm}",
        "vit_model": tower,
        "vit_kwargs": sizes,
        "vit_weights": str(root / "vit.pth"),
        "vit_precision": "fp32",
        "image_size": 64,
        "has_qformer": False,
        "patches_per_token": 1,
        "llm_precision": "fp32",
        "ckpt": str(root / "projection.pth"),
        "ckpt_embedding_convention": "first_layer_input",
    } | model
    processor = {"train": {"name": "blip2_image_eval", "image_size": 64}}
    content = {"model": section, "datasets": {"cc_sbu": {"vis_processor": processor}}}
    (root / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(root / "mine.yaml")


def expected(model: ChatModel) -> list[dict[str, Any]]:
    """Ids, pixels and logits of the model itself: of each picture alone, and of the first two together."""
    answers = []
    for names in (*([one] for one in PICTURES), PICTURES[:2]):
        system = model.model.template.system
        messages = [model.message("system", system)] if system else []
        messages.append(model.message("user", QUESTION, [Path(one) for one in names]))
        tokens = model.model.prompts.encode([to_dialogue(messages, "")])
        ids = tokens.ids[0].clone()
        ids[tokens.image_index] = IMAGE_ID
        pixels = torch.stack([model.processor.to_batch(read_picture(one)) for one in names])
        with torch.no_grad():
            embeds = model.model.embed(tokens, model.model.project(model.model.vision(pixels)))
            logits = model.model.language.logits(embeds, torch.tensor([len(ids) - 1]))[0]
        answers.append({"ids": ids, "pixels": model.model.vision.normalized(pixels), "logits": logits})
    return answers


def compare(answer: dict[str, Any], model: ChatModel) -> None:
    """Assert that transformers' ids, pixels, logits and greedy replies are those of the model itself."""
    vocabulary = model.model.language.config.vocab_size
    for theirs, ours in zip(answer["answers"], expected(model), strict=True):
        ids = torch.where(ours["ids"] == IMAGE_ID, vocabulary, ours["ids"])
        assert theirs["ids"].tolist() == ids.tolist()
        torch.testing.assert_close(theirs["pixels"], ours["pixels"], rtol=0, atol=1e-6)
        assert len(theirs["logits"]) == vocabulary + 1
        torch.testing.assert_close(theirs["logits"][:vocabulary], ours["logits"], rtol=0, atol=CLOSE)
        # The row of `<image>` is that of a token which is never written.
        assert theirs["logits"].argmax() != vocabulary
    said = replies(model)
    assert [one["reply"] for one in answer["answers"]] == answer["piped"] == said
