"""What the tests share: the recorded reference values, and a model built from them as a user would."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from minigpt4.common.registry import registry
from minigpt4.models.execution import has_compiler
from minigpt4.runners import report

GOLDEN = Path(__file__).parent / "golden"

can_compile = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler to compile with")


def golden_model_config(**overrides: Any) -> dict[str, Any]:
    """A `model:` section that names the golden weights, at their sizes, in float32."""
    dims = json.loads((GOLDEN / "reference.json").read_text())["dims"]
    return {
        "arch": "minigpt4",
        "image_size": dims["image_size"],
        "vit_model": "eva_clip_g",
        "vit_weights": str(GOLDEN / "eva_vit.pth"),
        "vit_kwargs": {
            "patch_size": dims["patch_size"],
            "embed_dim": dims["vit_dim"],
            "depth": dims["vit_depth"],
            "num_heads": dims["vit_heads"],
            "mlp_ratio": dims["vit_mlp_ratio"],
        },
        "vit_precision": "fp32",
        "has_qformer": True,
        "q_former_model": str(GOLDEN / "blip2_qformer.pth"),
        "q_former_kwargs": {
            "hidden_size": dims["qformer_dim"],
            "num_hidden_layers": dims["qformer_layers"],
            "num_attention_heads": dims["qformer_heads"],
            "intermediate_size": dims["qformer_intermediate"],
            "cross_attention_frequency": dims["qformer_cross_attention_freq"],
        },
        "num_query_token": dims["num_query_token"],
        "llama_model": str(GOLDEN / "llm"),
        "llm_precision": "fp32",
        "end_sym": "\n",
        "max_txt_len": 32,
        "ckpt": str(GOLDEN / "minigpt4_checkpoint.pth"),
    } | overrides


def build_golden_model(**overrides: Any) -> torch.nn.Module:
    config = golden_model_config(**overrides)
    return registry.get_model_class(config["arch"]).from_config(config, device="cpu")


@pytest.fixture(scope="session")
def golden_model() -> torch.nn.Module:
    """Shared by tests that change nothing in it."""
    return build_golden_model()


@pytest.fixture(scope="session")
def golden_io() -> dict[str, Any]:
    return torch.load(GOLDEN / "minigpt4_io.pt", weights_only=True)


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    return json.loads((GOLDEN / "reference.json").read_text())


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Any:
    """One training run, executed in many ways: `tests.modes.Runs`."""
    from tests.modes import run_everything

    return run_everything(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True, scope="session")
def listen_to_ctrl_c() -> None:
    """A script's background job ignores it, and so would all that it starts; but some tests send it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps the precision of a process's first run, and refuses every other."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Shards for runs of a few steps; nobody changes them."""
    from tests.attempts import write_shapes

    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Most of a short run's time would go into drawing."""
    for name in ("draw_loss", "draw_samples"):
        monkeypatch.setattr(report, name, lambda _, path: path.write_bytes(b"a picture"))
