"""`demo.py` from a shell: its help, its mistakes, and a visit with a password."""

import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from minigpt4.commands import chat
from tests.support.browsing import Page, demo, open_browser, serving_demo
from tests.support.golden import golden_model_config


def write_config(folder: Path, image_size: int = 56) -> Path:
    section = {"name": "blip2_image_eval", "image_size": image_size}
    config = {
        "model": golden_model_config(model_type="pretrain_llama2", end_sym="</s>"),
        "datasets": {"cc_sbu": {"vis_processor": {"train": section}}},
    }
    OmegaConf.save(OmegaConf.create(config), folder / "demo.yaml")
    return folder / "demo.yaml"


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        demo("--help", python=("-X", "importtime")), capture_output=True, text=True, check=True
    )
    assert "python demo.py --cfg-path" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "transformers", "gradio", "PIL", "omegaconf", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cfg-path", "no/such.yaml"], "error: no config file"),
        (["--cfg-path", "{good}", "--device", "cuda:99"], "error: device 'cuda:99' is not available"),
        (["--cfg-path", "{good}", "--auth", "me"], "error: --auth must be USER:PASSWORD"),
        (["--cfg-path", "{good}", "--host", "no.such.host.invalid"], "error: --host is"),
        (["--cfg-path", "{wrong}"], "error: datasets.cc_sbu.vis_processor.train.image_size is 224"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, arguments, message) -> None:
    (tmp_path / "wrong").mkdir()
    files = {"good": write_config(tmp_path), "wrong": write_config(tmp_path / "wrong", image_size=224)}
    words = [argument.format(**files) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["demo.py", *words, "--port", "0"])
    with pytest.raises(SystemExit) as end:
        chat.main()
    assert str(end.value).startswith(message) and "\n" not in str(end.value)


def test_a_visit_with_a_password(tmp_path) -> None:
    arguments = ("--cfg-path", str(write_config(tmp_path)), "--auth", "me:secret", "--lang", "zh")
    browser = open_browser(tmp_path / "profile")
    try:
        with serving_demo(tmp_path, *arguments) as address:
            browser.get(address + "/login")
            fields = {"username": "me", "password": "secret"}
            entered = "fetch('/login', {method: 'POST', body: new URLSearchParams(arguments[0])})"
            assert browser.execute_async_script(f"{entered}.then((done) => arguments[1](done.ok))", fields)
            page = Page(browser, address, ready="minigpt4_checkpoint.pth")
            assert page.find("#new-chat")[0].text == "新对话"
            assert page.ask("hello")
    finally:
        browser.quit()
