"""What only a CUDA device can show: `pytest -m cuda`."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from minigpt4.common.registry import registry
from minigpt4.runners.engine import Requests
from minigpt4.runners.micro_batches import draw_micro_batches
from minigpt4.tasks import setup_task
from tests.support.runs import losses, run_config, train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device is seen; `pytest -m cuda` looks for one"
    ),
]


def test_engine_update_never_waits_for_the_device(shards: Path, tmp_path: Path) -> None:
    """CUDA raises at each call that would block the host. The second update of each size is looked at: the
    first one may allocate and choose kernels."""
    cfg = run_config(shards, tmp_path / "job", device="cuda", amp=True)
    task = setup_task(cfg)
    model = task.build_model(cfg, device="cuda")
    runner = registry.get_runner_class("runner_base")(
        cfg=cfg, task=task, model=model, datasets=task.build_datasets(cfg)
    )
    drawn = draw_micro_batches(runner._train_batches(), model.prepare, iter([2] * 4), runner.engine.device)
    updates = []
    for step, micro_batches in enumerate(islice(drawn, 4)):
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            updates.append(runner.engine.update(micro_batches, 2 * (step + 1), Requests()))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(update.result().finite for update in updates)


def test_draw_micro_batches_copies_on_a_stream_of_its_own(shards: Path, tmp_path: Path) -> None:
    cfg = run_config(shards, tmp_path / "job", device="cuda")
    task = setup_task(cfg)
    model = task.build_model(cfg, device="cuda")

    def drawn(device: str) -> list:
        datasets = task.build_datasets(cfg)
        runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
        return list(
            draw_micro_batches(runner._train_batches(), model.prepare, iter([2, 1, 2]), torch.device(device))
        )

    for there, here in zip(drawn("cuda:0"), drawn("cpu"), strict=True):
        assert there.keys == here.keys and there.targets == here.targets
        for moved, stayed in zip(there.batches, here.batches, strict=True):
            assert moved.images.is_cuda and moved.tokens.ids.is_cuda
            assert torch.equal(moved.images.cpu(), stayed.images)
            assert torch.equal(moved.tokens.ids.cpu(), stayed.tokens.ids)


def test_training_on_cuda_has_the_losses_of_the_cpu_and_repeats(shards: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):
        train(run_config(shards, tmp_path / name, device="cuda"))
    train(run_config(shards, tmp_path / "cpu"))
    assert losses(tmp_path / "first") == losses(tmp_path / "again")
    assert losses(tmp_path / "first") == pytest.approx(losses(tmp_path / "cpu"), rel=2e-3)
