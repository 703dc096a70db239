"""Checkpoints: whole or not at all, read without running code, and only into the model they fit."""

import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.models.encoders.build import build_encoder
from minigpt4.weights.checkpoint import load_into, read_checkpoint, require_keys, save_checkpoint
from tests.support import GOLDEN
from tests.support.golden import build_golden_model, golden_model_config


def projection(width: int = 48, out: int = 64) -> dict[str, torch.Tensor]:
    return {"llama_proj.weight": torch.ones(out, width), "llama_proj.bias": torch.ones(out)}


def refused(model: torch.nn.Module, path: Path, *messages: str) -> None:
    """Loading raises a CheckpointError with all of the messages, and changes nothing."""
    before = {key: value.clone() for key, value in model.trainable_state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        model.load_checkpoint(path)
    for message in (str(path), *messages):
        assert message in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in model.trainable_state_dict().items())


class Explosive:
    """Raises while it is pickled, when the tensors before it are written already."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, error) -> None:
    path = tmp_path / "run" / "checkpoint_0.pth"
    save_checkpoint({"model": projection(), "epoch": 1}, path)
    old = path.read_bytes()
    with pytest.raises(type(error)):
        save_checkpoint({"model": projection(), "epoch": 2, "config": Explosive(error)}, path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["checkpoint_0.pth"]


def test_a_failing_first_write_leaves_nothing(tmp_path) -> None:
    with pytest.raises(ValueError, match="boom"):
        save_checkpoint({"model": Explosive(ValueError("boom"))}, tmp_path / "c.pth")
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_comes_back_as_it_was(tmp_path) -> None:
    path = tmp_path / "c.pth"
    state = {"model": projection(), "epoch": 3, "config": {"run": {"seed": 1}}, "rng": torch.get_rng_state()}
    save_checkpoint({"model": {}}, path)
    save_checkpoint(state, path)
    back = read_checkpoint(path)
    assert back.keys() == state.keys()
    assert (back["epoch"], back["config"]) == (3, {"run": {"seed": 1}})
    assert all(torch.equal(back["model"][key], value) for key, value in state["model"].items())
    assert torch.equal(back["rng"], state["rng"])


@pytest.mark.skipif(sys.platform == "win32", reason="no permission bits")
def test_a_checkpoint_has_the_permissions_of_any_file(tmp_path) -> None:
    save_checkpoint({"model": {}}, tmp_path / "c.pth")
    (tmp_path / "other").touch()
    assert (tmp_path / "c.pth").stat().st_mode == (tmp_path / "other").stat().st_mode


class Evil:
    """Runs a command when a careless reader unpickles it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "torch, legacy", "pickle 2", "pickle 4"])
def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path, form) -> None:
    path, trace = tmp_path / "c.pth", tmp_path / "the code ran"
    state = {"model": projection(), "config": Evil(f'echo > "{trace}"')}
    if form.startswith("torch"):
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")
    else:
        path.write_bytes(pickle.dumps(state["config"], protocol=int(form[-1])))
    refused = rf"^{re.escape(str(path))} is (refused: it contains|damaged)"
    with pytest.raises(CheckpointError, match=refused) as error:
        read_checkpoint(path)
    assert not trace.exists()
    assert "weights_only" not in str(error.value)  # torch's own message advises to run it
    if form != "pickle 4":
        assert re.search(r"it contains (posix|nt)\.system, which is code or an object", str(error.value))
    os.system(f'echo > "{trace}"')
    assert trace.exists(), "the command itself must work, or this test shows nothing"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is a text\n" * 20,
        b"<!DOCTYPE html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
        bytes(range(256)) * 8,
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_checkpoint(tmp_path, content, suffix) -> None:
    path = (tmp_path / "c").with_suffix(suffix)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))} is .*not a file of tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_checkpoint(tmp_path, share, suffix) -> None:
    path = (tmp_path / "c").with_suffix(suffix)
    save_file(projection(), path) if suffix == ".safetensors" else torch.save(projection(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))} is .*not a file of tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2), "holds a Tensor, not a dict of tensors"),
        ({"model": torch.zeros(2)}, "`model` must hold tensors only"),
        ({"model": {"a": 1}}, "`model` must hold tensors only"),
        ({"epoch": 1, "optimizer": {}}, "`model` must hold tensors only"),
    ],
)
def test_a_file_of_other_things(tmp_path, content, message) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'c.pth'}") + f".*{message}"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"^no checkpoint file .*c\.pth$"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("tensors", "messages"),
    [
        ({"llama_proj.weight": torch.ones(64, 48)}, ["the key 'llama_proj.bias' is missing"]),
        ({}, ["the key 'llama_proj.bias' and 1 more is missing"]),
        (
            projection() | {"llama_prj.weight": torch.ones(1)},
            ["unexpected key 'llama_prj.weight'; did you mean 'llama_proj.weight'?"],
        ),
        (projection() | {"t5_head": torch.ones(1)}, ["unexpected key 't5_head'"]),
        # Without meta, as the original leaves them: made for a language model of another width …
        (projection(out=4096), ["llama_proj.weight is [4096, 48], the model wants [64, 48]"]),
        # … or behind another Q-Former.
        (
            projection(width=768),
            [
                "llama_proj.weight is [64, 768], the model wants [64, 48]: it was trained on image "
                "tokens that are 768 wide, here they are 48 wide (model.has_qformer, model.patches_per_token",
            ],
        ),
    ],
)
def test_tensors_that_do_not_fit(golden_model, tmp_path, tensors, messages) -> None:
    save_checkpoint({"model": tensors}, tmp_path / "c.pth")
    refused(golden_model, tmp_path / "c.pth", *messages)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llm_width", 2048),
        ("llm_vocabulary", 256000),
    ],
)
def test_a_checkpoint_of_another_language_model_names_both(golden_model, tmp_path, key, value) -> None:
    meta = golden_model.checkpoint_meta() | {"llama_model": "gemma-2b-it", key: value}
    save_checkpoint({"model": projection(out=2048), "meta": meta}, tmp_path / "c.pth")
    own = golden_model.checkpoint_meta()[key]
    refused(
        golden_model,
        tmp_path / "c.pth",
        f"was trained for the language model 'gemma-2b-it' ({key}: {value})",
        f"model.llama_model is 'llm' ({key}: {own})",
    )


def test_a_mismatch_is_not_advised_where_shapes_do_not_fit(golden_model, tmp_path) -> None:
    meta = golden_model.checkpoint_meta() | {"llm_width": 2048}
    for out, advised in ((2048, False), (64, True)):
        save_checkpoint({"model": projection(out=out), "meta": meta}, tmp_path / "c.pth")
        with pytest.raises(CheckpointError) as error:
            golden_model.load_checkpoint(tmp_path / "c.pth")
        assert ("ckpt_allow_mismatch" in str(error.value)) == advised


def test_a_checkpoint_of_another_encoder_names_both(golden_model, tmp_path) -> None:
    meta = golden_model.checkpoint_meta() | {"vit_model": "tf_efficientnet_lite0"}
    save_checkpoint({"model": projection(), "meta": meta}, tmp_path / "c.pth")
    refused(
        golden_model,
        tmp_path / "c.pth",
        "was trained with the encoder 'tf_efficientnet_lite0'",
        "model.vit_model is 'eva_clip_g'",
    )


def saved(model, path: Path, **changes) -> Path:
    """A projection of ones, with the model's own meta but for `changes`."""
    save_checkpoint({"model": projection(), "meta": model.checkpoint_meta() | changes}, path)
    return path


def test_a_language_model_of_the_same_sizes_is_told_apart(golden_model, tmp_path) -> None:
    """Vicuna and LLaMA-2 have one width and one vocabulary; a folder that was renamed is still the same."""
    renamed = saved(golden_model, tmp_path / "renamed.pth", llama_model="llama-2-7b-chat-hf")
    assert build_golden_model(ckpt=str(renamed)).llama_proj.bias.eq(1).all()
    other_precision = saved(golden_model, tmp_path / "p.pth", llm_fingerprint="0123456789abcdef")
    assert build_golden_model(ckpt=str(other_precision)).llama_proj.bias.eq(1).all()
    other = saved(
        golden_model, tmp_path / "other.pth", llama_model="vicuna-7b", llm_fingerprint="0123456789abcdef"
    )
    refused(
        golden_model,
        other,
        "was trained for the language model 'vicuna-7b', model.llama_model is 'llm'",
        "and their weights differ",
        "model.ckpt_allow_mismatch: True",
    )


def test_other_turns_than_a_checkpoint_was_trained_with(tmp_path) -> None:
    prompts = {"prompt_path": "pkg://minigpt4/prompts/caption.txt"}
    vicuna = build_golden_model(prompt_template="###Human: {} ###Assistant: ", **prompts)
    path = saved(vicuna, tmp_path / "c.pth")
    refused(
        build_golden_model(),
        path,
        "was trained with turns written '###Human: ... ###Assistant: ', here they are written "
        "'[INST] ... [/INST] '",
    )
    # The spacing is no other template, and a projection trained on bare images fits any.
    assert build_golden_model(prompt_template="###Human:{}###Assistant:", ckpt=str(path), **prompts)
    bare = saved(build_golden_model(), tmp_path / "bare.pth")
    vicuna.load_checkpoint(bare)


def test_spacing_counts_where_turns_are_marked_by_nothing_else(tmp_path) -> None:
    prompts = {"prompt_path": "pkg://minigpt4/prompts/caption.txt"}
    spaced = build_golden_model(prompt_template="{} ", **prompts)
    path = saved(spaced, tmp_path / "c.pth")
    spaced.load_checkpoint(path)
    refused(build_golden_model(prompt_template="{}\n", **prompts), path, r"written '... ', here", r"'...\n'")


def test_a_mismatch_is_loaded_where_the_yaml_says_so(golden_model, tmp_path, caplog) -> None:
    path = saved(golden_model, tmp_path / "c.pth", vit_model="vit_large")
    model = build_golden_model(ckpt=str(path), ckpt_allow_mismatch=True)
    assert model.llama_proj.bias.eq(1).all()
    assert "was trained with the encoder 'vit_large'" in caplog.text
    # Shapes fit or do not, whatever is allowed.
    save_checkpoint({"model": projection(out=2048)}, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"llama_proj.weight is \[2048, 48\]"):
        build_golden_model(ckpt=str(tmp_path / "wide.pth"), ckpt_allow_mismatch=True)


def test_the_embedding_convention_is_said_or_asked_for(golden_model, tmp_path) -> None:
    path = saved(golden_model, tmp_path / "c.pth", embedding_convention="table_row")
    refused(
        golden_model,
        path,
        "was trained with embedding_convention table_row, not first_layer_input",
        "please set model.ckpt_embedding_convention",
    )
    # LLaMA has no factor: the projection stays what it is.
    model = build_golden_model(ckpt=str(path), ckpt_embedding_convention="table_row")
    assert model.llama_proj.bias.eq(1).all()
    with pytest.raises(ConfigError, match=r"ckpt_embedding_convention is 'table_rows'; did you mean 'table_"):
        build_golden_model(ckpt=str(path), ckpt_embedding_convention="table_rows")
    own = saved(golden_model, tmp_path / "own.pth")
    with pytest.raises(CheckpointError, match="embedding_convention first_layer_input, not table_row"):
        build_golden_model(ckpt=str(own), ckpt_embedding_convention="table_row")


def test_meta_that_is_no_dict(golden_model, tmp_path) -> None:
    save_checkpoint({"model": projection(), "meta": [1]}, tmp_path / "c.pth")
    refused(golden_model, tmp_path / "c.pth", "`meta` is a list, it must be a dict")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_that_fits_is_loaded_through_the_yaml(golden_model, tmp_path, suffix) -> None:
    path = (tmp_path / "c").with_suffix(suffix)
    if suffix == ".pth":
        save_checkpoint({"model": projection(), "meta": golden_model.checkpoint_meta()}, path)
    else:
        save_file(projection(), path)
    model = build_golden_model(ckpt=str(path))
    assert model.llama_proj.weight.eq(1).all() and model.llama_proj.bias.eq(1).all()
    assert not golden_model.llama_proj.bias.eq(1).all()


def encoder(path: Path) -> torch.nn.Module:
    config = golden_model_config()
    return build_encoder("eva_clip_g", 56, weights=str(path), kwargs=config["vit_kwargs"])


def test_vit_weights_as_safetensors(tmp_path) -> None:
    tensors = torch.load(GOLDEN / "eva_vit.pth", weights_only=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "v.safetensors")
    ours, theirs = (
        encoder(tmp_path / "v.safetensors").state_dict(),
        encoder(GOLDEN / "eva_vit.pth").state_dict(),
    )
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("cls_token"), "the key 'cls_token' is missing"),
        (
            lambda t: t.update(cls_tokens=t["cls_token"]),
            "unexpected key 'cls_tokens'; did you mean 'cls_token'?",
        ),
        (
            lambda t: t.update(cls_token=torch.zeros(1, 1, 3)),
            "cls_token is [1, 1, 3], the model wants [1, 1, 64]",
        ),
    ],
)
def test_vit_weights_that_do_not_fit(tmp_path, change, message) -> None:
    tensors = torch.load(GOLDEN / "eva_vit.pth", weights_only=True)
    change(tensors)
    torch.save(tensors, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'v.pth'}: {message}")):
        encoder(tmp_path / "v.pth")


def test_load_into_changes_nothing_if_one_tensor_does_not_fit() -> None:
    module = torch.nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(CheckpointError, match=re.escape("f: bias is [2], the model wants [3]")):
        load_into(module, {"weight": torch.ones(3, 2), "bias": torch.ones(2)}, source="f")
    assert torch.equal(module.weight, before)
    load_into(module, {"weight": torch.ones(3, 2)}, source="f")
    assert module.weight.eq(1).all()


def test_require_keys_names_the_first_and_counts_the_others() -> None:
    with pytest.raises(CheckpointError, match=r"^f: the key 'a' and 2 more is missing$"):
        require_keys({"a", "b", "c", "d"}, {"d": 0}, source="f")
    require_keys({"a"}, {"a": 0, "b": 0}, source="f")
