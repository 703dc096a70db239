"""Stage 2 end to end on the tiny Gemma: from a stage 1, under instructions inside the template."""

import argparse
from collections.abc import Sequence
from typing import Any

import pytest

from dataset.shapes import make_align, make_shards
from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.conversation.messages import Conversation
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.templates import IMAGE_TURN
from minigpt4.tasks import setup_task
from tests.support import ROOT
from tests.support.prompts import whole
from tests.support.prompts import written as written_out


def test_the_instructions() -> None:
    lines = (ROOT / "prompts" / "alignment.txt").read_text().splitlines()
    assert len(set(lines)) == len(lines) == 20
    assert all(line.startswith(IMAGE_TURN) and line.count("<ImageHere>") == 1 for line in lines)


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> tuple[dict[str, Any], Any, list[str]]:
    """A short stage 1 on the tiny Gemma, a short stage 2 from its checkpoint, and the latter's prompts."""
    folder = tmp_path_factory.mktemp("stages")
    make_shards.write_split(folder / "train", "train", 1000, seed=0, samples_per_shard=1000)
    make_align.write_folder(folder / "align", "train", 200, seed=1)
    make_align.write_folder(folder / "held_out", "test", 60, seed=1)
    run(
        *("minigpt4_tiny_gemma_stage1_pretrain.yaml", "run.max_epoch=1", "run.iters_per_epoch=60"),
        *(f"run.output_dir={folder}/stage1", "run.test_splits=[]", "datasets.cc_sbu.batch_size=32"),
        f"datasets.cc_sbu.build_info.storage={folder}/train/00000.tar",
    )
    given: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        encode = PromptEncoder.encode

        def remember(prompts: PromptEncoder, dialogues: Sequence[Dialogue], **how: Any) -> Any:
            if how.get("learn_all"):
                given.extend(written_out(prompts, dialogue.unanswered()) for dialogue in dialogues)
            return encode(prompts, dialogues, **how)

        patch.setattr(PromptEncoder, "encode", remember)
        storage = f"{{train: {folder}/align, test: {folder}/held_out}}"
        report, runner = run(
            *("minigpt4_tiny_gemma_stage2_finetune.yaml", "run.max_epoch=1", "run.iters_per_epoch=60"),
            *(f"run.output_dir={folder}/stage2", f"datasets.cc_sbu_align.build_info.storage={storage}"),
            *(f"model.ckpt={folder}/stage1/checkpoint_latest.pth", "run.log_freq=5", "run.init_lr=3e-3"),
        )
    return report, runner, given


def run(name: str, *options: str) -> tuple[dict[str, Any], Any]:
    options = [*options, "run.num_workers=0", "run.device=cpu", "run.amp=False"]
    cfg = Config(argparse.Namespace(cfg_path=ROOT / "train_configs" / name, options=options))
    task = setup_task(cfg)
    model, datasets = task.build_model(cfg, device="cpu"), task.build_datasets(cfg)
    runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
    return runner.train(), runner


def test_stage_2_goes_on_from_stage_1(stages) -> None:
    report, runner, _ = stages
    losses = [record["loss"] for record in runner.reporter.log.read()]
    assert losses[-1] < 0.7 * losses[0]
    assert report["loss"] < 0.5 * report["before"]["loss"]
    assert report["exact_match"] - 0.1 > report["before"]["exact_match"] > 0.3  # after stage 1
    assert report["samples"] == 60 and report["bad_samples"] == {}


def test_stage_2s_prompts_are_inside_the_template(stages) -> None:
    """Word for word, and id for id, what chat writes around the same request."""
    _, runner, given = stages
    model = runner.bare_model
    requests = (ROOT / "prompts" / "alignment.txt").read_text().splitlines()
    written = [f"<start_of_turn>user\n{request}<end_of_turn>\n<start_of_turn>model\n" for request in requests]
    assert len(given) == 60 * 12
    assert set(given) <= set(written) and len(set(given)) > 10
    assert model.prompt_list[0] == written[0]
    chat = Conversation(model.template)
    chat.append_message(chat.roles[0], requests[0])
    chat.append_message(chat.roles[1], None)
    assert chat.get_prompt() == written[0]
    tokens = model.prompts.encode([whole(written[1], "a star")])
    # <bos> <start_of_turn> user \n <Img> 8 image tokens </Img> ... <end_of_turn> \n <start_of_turn> model \n,
    # then `a`, `star` and <end_of_turn>, the only ones learned
    ids = tokens.ids[0].tolist()
    assert ids[:5] == [2, 4, 307, 16, 277] and tokens.image_index.tolist() == list(range(5, 13))
    assert ids[-8:] == [5, 16, 4, 308, 16, 547, 333, 5]
    assert tokens.target_ids.tolist() == [547, 333, 5]
