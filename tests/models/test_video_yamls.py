"""MiniGPT4-video's YAMLs in their authors' keys, some of them twice, and checkpoints in their layout."""

from pathlib import Path

import pytest
import torch

from minigpt4.common.config import plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import parse
from minigpt4.datasets.builders.base_dataset_builder import check_datasets
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.prompts.video import about_video
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks import setup_task
from tests.support.runs import load

TINY = "pkg://minigpt4/assets/tiny"
MODEL = """
model:
  arch: mini_gpt4_llama_v2
  model_type: minigpt4_video
  llama_model: "{llm}"
  max_txt_len: {text}
  max_context_len: {context}
  architectures: [
    "MiniGPT4_Video"
  ]
  device: "cuda"
  drop_path_rate: 0
  img_size: 224
  model_type: "minigpt4_video"
  num_query_token: 32
  prompt: ""
  torch_dtype: "float32"
  vit_precision: "fp16"
  vit_model: "eva_clip_g"
  lora_target_modules : ["q_proj","v_proj"]
  lora_dropout: 0.05
  remove_template: false
  token_pooling: True
"""
ALIGNED = """  end_sym: "</s>"
  prompt_path: "{prompts}"
  prompt_template: '[INST] {{}} [/INST] '
"""
VIDEO = """  freeze_vit: True
  freeze_qformer: True
  low_resource: False
  image_size: 224
  end_sym: "</s>"
  use_grad_checkpoint: True
  chat_template: True
  lora_r: 32
  lora_alpha: 8
  length: 50
  use_grad_checkpoint_llm: True
  prompt_path: ""
  token_pooling: True
"""
DATA = """  {name}:
    batch_size: 3
    vis_processor:
      train:
        name: "blip2_image_train"
        image_size: 224
    text_processor:
      train:
        name: "blip_caption"
    sample_ratio: 7
"""
RUN = """
run:
  task: image_text_pretrain
  lr_sched: "linear_warmup_cosine_lr"
  init_lr: 2e-4
  min_lr: 7e-5
  warmup_lr: 2e-6
  weight_decay: 0.04
  max_epoch: 3
  num_workers: 2
  warmup_steps: 9
  iters_per_epoch: 11
  seed: 7
  output_dir: "out"
  amp: True
  resume_ckpt_path: null
  evaluate: False
  train_splits: ["train"]
  device: "cuda"
  world_size: 1
  dist_url: "env://"
  distributed: True
  wandb_log: True
  job_name: mine
"""
STAGES = {
    "image": ("", ["laion", "cc_sbu"]),
    "image_align": (ALIGNED, ["cc_sbu_align"]),
    "video_stage_2": (VIDEO, ["cmd_video", "webvid"]),
    "video_stage_3": (VIDEO, ["video_chatgpt"]),
}


def written(folder: Path, stage: str, llm: str = "a/b", context: int = 3600) -> Path:
    model, names = STAGES[stage]
    (folder / "prompts.txt").write_text("<Img><ImageHere></Img> Describe it.\n")
    text = MODEL.format(llm=llm, text=250, context=context) + model.format(prompts=folder / "prompts.txt")
    path = folder / f"{stage}.yaml"
    path.write_text(text + "\ndatasets:\n" + "".join(DATA.format(name=name) for name in names) + RUN)
    return path


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("llm", "context"),
    [("meta-llama/Llama-2-7b-chat-hf", 3600), ("mistralai/Mistral-7B-Instruct-v0.2", 7200)],
)
def test_a_yaml_for_training_is_read_whole(tmp_path, stage, llm, context) -> None:
    cfg = load(written(tmp_path, stage, llm, context))
    model = cfg.model_settings()
    assert (model.arch, model.model_type, model.llama_model) == ("minigpt_v2", "video", llm)
    assert (model.max_context_len, model.image_size, model.patches_per_token) == (context, 224, 4)
    assert (model.lora_r, model.lora_alpha) == ((32, 8) if "video" in stage else (64, 16))
    builders = check_datasets(plain(cfg.datasets_cfg))
    assert [*builders] == STAGES[stage][1]
    for builder in builders.values():
        assert (builder.batch_size, builder.sample_ratio) == (3, 7.0)
        if "video" in stage:
            assert builder.settings.video.which == {"frames": 45, "sampling": "minigpt4_video"}
    run = parse(RunSettings, cfg.run_cfg, "run")
    assert (run.init_lr, run.iters_per_epoch, run.warmup_steps) == (2e-4, 11, 9)


def test_a_key_with_two_values_is_an_error(tmp_path) -> None:
    """As in their YAMLs for testing: which one is meant must be said."""
    path = written(tmp_path, "video_stage_3")
    path.write_text(path.read_text().replace("token_pooling: True", "token_pooling: False", 1))
    with pytest.raises(ConfigError, match="duplicate key token_pooling"):
        load(path)


@pytest.mark.integration
def test_it_is_built_with_tiny_weights_and_takes_a_checkpoint_in_their_layout(tmp_path) -> None:
    path = written(tmp_path, "video_stage_3", f"{TINY}/llama_v2")
    tiny = [
        *(f"model.vit_weights={TINY}/eva_vit_g_v2.pth", "model.image_size=112", "model.vit_precision=fp32"),
        "model.vit_kwargs={patch_size: 14, embed_dim: 128, depth: 4, num_heads: 4, mlp_ratio: 3.0}",
        *("model.llm_precision=fp32", "model.llm_sanity_check=False", "model.max_context_len=400"),
    ]
    cfg = load(path, *tiny)
    model = setup_task(cfg).build_model(cfg, device="cpu")
    question = about_video(["", "hello", ""], "what?")
    sample = Sample(
        dialogue=Dialogue.of([(question, "a red circle")]),
        image=torch.full((3, 3, 112, 112), 90, dtype=torch.uint8),
    )
    loss = model(model.prepare(Batch.of([sample])))["loss"]
    loss.backward()
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert loss.isfinite() and all(one.grad is not None for one in trained.values())

    def layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key.replace(".default.", "."): one for key, one in state.items()}  # of peft 0.2

    weights = {key: torch.rand_like(one) for key, one in layout(model.trainable_state_dict()).items()}
    layer = "llama_model.base_model.model.model.layers.0.self_attn.q_proj"
    assert {"llama_proj.weight", "llama_proj.bias", f"{layer}.lora_A.weight"} <= weights.keys()
    torch.save({"model": weights, "epoch": 3}, tmp_path / "theirs.pth")
    cfg = load(path, *tiny, f"model.ckpt={tmp_path / 'theirs.pth'}")
    own = layout(setup_task(cfg).build_model(cfg, device="cpu").trainable_state_dict())
    assert own.keys() == weights.keys() and all(torch.equal(own[key], weights[key]) for key in own)
