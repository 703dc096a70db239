"""What code that drives a MiniGPT-4 from outside calls, in its order, with tiny weights.

Written by us after what such code does; the models are those of the recorded values.
"""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from transformers import StoppingCriteriaList

from minigpt4.prompts.templates import VICUNA_V0
from tests.support import ROOT
from tests.support.golden import golden_model_config
from tests.support.runs import losses, run_config

IMAGE = "<Img><ImageHere></Img>"


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "red.png"
    Image.new("RGB", (90, 70), "red").save(path)
    return str(path)


def tiny(**keys: Any) -> dict[str, Any]:
    return {"llm_sanity_check": False, **golden_model_config(**keys)}


def test_a_benchmark_suites_wrapper(tmp_path: Path, picture: str) -> None:
    """It reads the YAML itself, whose model type is its own, prepares an answer, and generates."""
    from minigpt4.common.registry import registry
    from minigpt4.conversation.conversation import CONV_VISION_Vicuna0, StoppingCriteriaSub

    turns = {"prompt_template": "###Human: {} ###Assistant: ", "end_sym": "###", "max_txt_len": 160}
    original = {"model_type": "pretrain_vicuna_7b", "low_resource": False, "prompt": "", "drop_path_rate": 0}
    processor = {"name": "blip2_image_eval", "image_size": 56}
    content = {
        "model": tiny(**turns, **original),
        "datasets": {"cc_sbu_align": {"vis_processor": {"train": processor}}},
        "run": {"task": "image_text_pretrain"},
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content))

    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    cfg = OmegaConf.load(tmp_path / "eval.yaml")
    model_cfg = cfg.model
    model_cfg.device_8bit = device if isinstance(device, int) else 0
    model_cls = registry.get_model_class(model_cfg.arch)
    model = model_cls.from_config(model_cfg)
    model = model.to(device)
    model.eval()
    vis_processor_cfg = cfg.datasets.cc_sbu_align.vis_processor.train
    vis_processor = registry.get_processor_class(vis_processor_cfg.name).from_config(vis_processor_cfg)
    stop_words_ids = [torch.tensor(ids).to(device) for ids in [[835], [2277, 29937]]]
    stopping_criteria = StoppingCriteriaList([StoppingCriteriaSub(stops=stop_words_ids)])

    from minigpt4.conversation.conversation import Chat

    chat = Chat(model, vis_processor, device=device, stopping_criteria=stopping_criteria)
    settings = {"max_new_tokens": 8, "num_beams": 1, "min_length": 1, "top_p": 0.9, "max_length": 2000}
    settings |= {"repetition_penalty": 1.0, "length_penalty": 1.0, "temperature": 1.0}
    for beams in (1, 5):
        chat_state = CONV_VISION_Vicuna0.copy()
        img_list: list[Any] = []
        chat.upload_img(picture, chat_state, img_list)
        chat.encode_img(img_list)
        chat.ask("what is this?", chat_state)
        with torch.inference_mode():
            settings |= {"num_beams": beams, "length_penalty": -1 if beams == 5 else 1.0}
            generation_dict = chat.answer_prepare(chat_state, img_list, **settings)
            generation_dict["do_sample"] = False
            output_token = chat.model_generate(**generation_dict)[0]
            output_text = chat.model.llama_tokenizer.decode(output_token, skip_special_tokens=True)
        output_text = output_text.split("###")[0]
        output_text = output_text.split("Assistant:")[-1].strip()

        # What the model was given: BOS once, the system text, the turn as it was trained.
        prompt = f"{VICUNA_V0.system}###Human: {IMAGE} what is this? ###Assistant: "
        assert torch.equal(generation_dict["inputs_embeds"], model.get_context_emb(prompt, img_list))
        image = vis_processor.to_batch(Image.open(picture))[None]
        how = {name: settings[name] for name in ("num_beams", "max_new_tokens", "length_penalty")}
        [expected] = model.generate(image, [prompt], **how)
        assert output_text == expected.strip()


def test_the_originals_demo(picture: str) -> None:
    """Its script up to the page, then what its buttons call, with its own YAML and tiny weights."""
    from minigpt4.common.config import Config
    from minigpt4.common.dist_utils import get_rank
    from minigpt4.common.registry import registry
    from minigpt4.conversation.conversation import (
        Chat,
        CONV_VISION_LLama2,
        CONV_VISION_Vicuna0,
        StoppingCriteriaSub,
    )

    for package in ("datasets.builders", "models", "processors", "runners", "tasks"):
        exec(f"from minigpt4.{package} import *", {})

    conv_dict = {"pretrain_vicuna0": CONV_VISION_Vicuna0, "pretrain_llama2": CONV_VISION_LLama2}
    own = {key: value for key, value in tiny().items() if key not in ("arch", "end_sym", "max_txt_len")}
    options = [f"model.{key}={value}" for key, value in flat(own)]
    options += ["datasets.cc_sbu_align.vis_processor.train.image_size=56", "run.seed=42"]
    options += ["model.low_resource=False", f"model.prompt_path={ROOT}/prompts/alignment.txt"]
    yaml_path = ROOT / "tests/original_configs/minigpt4_eval.yaml"
    args = argparse.Namespace(cfg_path=str(yaml_path), gpu_id=0, options=options)
    cfg = Config(args)
    torch.manual_seed(cfg.run_cfg.seed + get_rank())

    device = f"cuda:{args.gpu_id}" if torch.cuda.is_available() else "cpu"
    model_config = cfg.model_cfg
    model_config.device_8bit = args.gpu_id
    model_cls = registry.get_model_class(model_config.arch)
    model = model_cls.from_config(model_config).to(device)
    CONV_VISION = conv_dict[model_config.model_type]
    vis_processor_cfg = cfg.datasets_cfg.cc_sbu_align.vis_processor.train
    vis_processor = registry.get_processor_class(vis_processor_cfg.name).from_config(vis_processor_cfg)
    stop_words_ids = [torch.tensor(ids).to(device) for ids in [[835], [2277, 29937]]]
    stopping_criteria = StoppingCriteriaList([StoppingCriteriaSub(stops=stop_words_ids)])
    chat = Chat(model, vis_processor, device=device, stopping_criteria=stopping_criteria)

    # "Upload & Start Chat"
    chat_state = CONV_VISION.copy()
    img_list: list[Any] = []
    assert chat.upload_img(Image.open(picture), chat_state, img_list) == "Received."
    chat.encode_img(img_list)
    # two questions
    chatbot: list[list[str | None]] = []
    for user_message in ("what is this?", "which colour?"):
        chat.ask(user_message, chat_state)
        chatbot = [*chatbot, [user_message, None]]
        llm_message = chat.answer(
            conv=chat_state,
            img_list=img_list,
            num_beams=1,
            temperature=1.0,
            max_new_tokens=6,
            max_length=2000,
        )[0]
        chatbot[-1][1] = llm_message
    said = [text for _, text in chat_state.messages]
    assert said[0] == f"{IMAGE} what is this?" and said[2] == "which colour?"
    assert [said[1], said[3]] == [pair[1] for pair in chatbot]
    assert chat_state.get_prompt().startswith(
        f"{VICUNA_V0.system}###Human: {IMAGE} what is this?###Assistant: "
    )
    # "Restart"
    chat_state.messages = []
    assert CONV_VISION.messages == [] and chat_state.copy().messages == []


def test_the_originals_training_script(shapes: Path, tmp_path: Path) -> None:
    """Configuration, ranks, task, data, model, runner."""
    import minigpt4.tasks as tasks
    from minigpt4.common.dist_utils import get_rank, init_distributed_mode
    from minigpt4.common.logger import setup_logger
    from minigpt4.common.registry import registry
    from minigpt4.common.utils import now

    job_id = now()
    cfg = run_config(shapes, tmp_path / "run", max_epoch=1, iters_per_epoch=2, log_freq=1)
    init_distributed_mode(cfg.run_cfg)
    torch.manual_seed(cfg.run_cfg.get("seed", 42) + get_rank())
    setup_logger()
    cfg.pretty_print()
    task = tasks.setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg)
    runner_cls = registry.get_runner_class(cfg.run_cfg.get("runner", "runner_base"))
    runner = runner_cls(cfg=cfg, job_id=job_id, task=task, model=model, datasets=datasets)
    assert runner.train()["steps"] == 2
    assert len(losses(tmp_path / "run")) == 2


def flat(section: dict[str, Any], name: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in section.items():
        path = f"{name}{key}"
        pairs += flat(value, f"{path}.") if isinstance(value, dict) else [(path, value)]
    return pairs
