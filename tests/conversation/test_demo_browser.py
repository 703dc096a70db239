"""The demo as a person meets it: started from the command line, used in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.support import ROOT
from tests.support.golden import golden_model_config

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Some so that it runs as root and without a screen; some keep it from calling home.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)
# Notes what the last reply looks like whenever it changes; asking for it from here would miss some.
WATCH = """
window.seen = [];
new MutationObserver(() => {
  const replies = document.querySelectorAll("#dialogue [data-testid=bot]");
  const text = replies.length ? replies[replies.length - 1].innerText : "";
  if (text && text !== window.seen.at(-1)) window.seen.push(text);
}).observe(document.body, {subtree: true, childList: true, characterData: true});
"""
PATIENCE = 60  # seconds, for machines with a lot to do


def demo(*arguments: str, **options) -> list[str]:
    return [sys.executable, *options.get("python", ()), str(ROOT / "demo.py"), *arguments]


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
        demo("--help", python=["-X", "importtime"]), capture_output=True, text=True, check=True
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
        (["--cfg-path", "{wrong}"], "error: datasets.cc_sbu.vis_processor.train.image_size is 224"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message) -> None:
    (tmp_path / "wrong").mkdir()
    files = {"good": write_config(tmp_path), "wrong": write_config(tmp_path / "wrong", image_size=224)}
    arguments = [argument.format(**files) for argument in arguments]
    done = subprocess.run(demo(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The demo, served by another process."""
    folder = tmp_path_factory.mktemp("demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log.txt"
    environment = os.environ | {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "HF_HUB_OFFLINE": "1",
    }
    command = demo("--cfg-path", str(write_config(folder)), "--device", "cpu", "--port", str(port))
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
    try:
        started = time.monotonic()
        while "Running on" not in log.read_text():
            assert server.poll() is None and time.monotonic() - started < 2 * PATIENCE, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


@pytest.fixture
def browser(tmp_path):
    if not (CHROMIUM and CHROMEDRIVER):
        missing = "no chromium and chromedriver here: apt-get install chromium chromium-driver"
        # What is meant to test everything must not pass because it could not.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


class Page:
    """What a visitor can do and see."""

    def __init__(self, browser, address: str) -> None:
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.find("#box textarea"))
        browser.execute_script(WATCH)

    def find(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def wait(self, condition):
        """Until the condition holds; elements that are replaced meanwhile are looked up again."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        return WebDriverWait(self.browser, PATIENCE, 0.05, ignored).until(lambda _: condition())

    def add_picture(self, path: Path) -> None:
        self.find("#box input[type=file]")[0].send_keys(str(path))
        self.wait(lambda: self.find("#box .thumbnail-item, #box [data-testid=thumbnail-item], #box img"))

    def ask(self, text: str) -> None:
        self.find("#box textarea")[0].send_keys(text + "\n")

    def said(self, who: str) -> list[str]:
        """All that the `user` or the `bot` has said, as it can be read."""
        return [element.text for element in self.find(f"#dialogue [data-testid={who}]")]

    def watch_reply(self, number: int) -> list[str]:
        """Wait for the n-th reply and until it is whole: all that it looked like as it grew."""
        self.wait(lambda: len(self.said("bot")) == number)
        seen, quiet_since = [], time.monotonic()
        while time.monotonic() - quiet_since < 2:
            now = self.browser.execute_script("return window.seen")
            if now != seen:
                seen, quiet_since = now, time.monotonic()
            time.sleep(0.1)
        self.browser.execute_script("window.seen = []")
        return seen

    def set_temperature(self, value: str) -> None:
        number = self.find("#temperature input[type=number]")[0]
        number.clear()
        number.send_keys(value + "\t")
        self.wait(lambda: self.find("#temperature input[type=range]")[0].get_property("value") == value)


def test_a_visit(browser, address, tmp_path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (320, 200), "red").save(picture)
    page = Page(browser, address)
    page.set_temperature("0")

    page.add_picture(picture)
    page.ask("what is <this>?")
    looks = page.watch_reply(1)
    assert len(looks) > 2 and looks[-1].startswith(looks[0]), looks
    assert page.said("user")[-1] == "what is <this>?"
    assert page.find("#dialogue [data-testid=user] img")
    reply = page.said("bot")[0]

    page.ask("colour?")
    page.watch_reply(2)
    assert page.said("bot")[0] == reply and page.said("bot")[1]
    browser.save_screenshot(str(tmp_path / "dialogue.png"))

    page.find("#restart")[0].click()
    page.wait(lambda: not page.said("user") and not page.said("bot"))
    page.add_picture(picture)
    page.ask("what is <this>?")
    page.watch_reply(1)
    assert page.said("bot") == [reply], "the new chat is not what the first one was"


def test_restart_stops_a_reply(browser, address) -> None:
    page = Page(browser, address)
    page.set_temperature("2")
    page.ask("tell me everything")
    page.wait(lambda: page.said("bot"))
    page.find("#restart")[0].click()
    page.wait(lambda: not page.said("bot"))
    page.set_temperature("0")
    page.ask("colour?")
    assert page.watch_reply(1)
    assert page.said("user") == ["colour?"]


def test_a_broken_picture_is_told_and_forgotten(browser, address, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page = Page(browser, address)
    page.add_picture(broken)
    page.ask("what is this?")
    page.wait(lambda: "broken.png cannot be read" in page.find("body")[0].text)
    assert not page.said("bot")
