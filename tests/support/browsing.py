"""The demo as a person meets it: a server of its own, a browser, and what a visitor can do and see."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

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
)
DESKTOP, PHONE = "1280,900", "390,844"
# A model that takes its time: what happens during a reply is over too soon otherwise.
SLOWLY = """
import time
from minigpt4.serving.engine import Engine
step = Engine._step
Engine._step = lambda *args: time.sleep(0.02) or step(*args)
from minigpt4.commands.chat import main
main()
"""
PATIENCE = 30  # seconds, for machines with a lot to do


def demo(*arguments: str, python: tuple[str, ...] = ()) -> list[str]:
    """The command."""
    return [sys.executable, *python, str(ROOT / "demo.py"), *arguments]


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """The demo, served by another process; its address."""
    log = folder / "log.txt"
    environment = os.environ | {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", SLOWLY, *arguments, "--device", "cpu", "--port", "0", "--no-browser"]
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
    try:
        started = time.monotonic()
        while "Running on local URL:" not in log.read_text():
            assert server.poll() is None and time.monotonic() - started < 4 * PATIENCE, log.read_text()
            time.sleep(0.2)
        yield log.read_text().split("Running on local URL:")[1].split()[0]
    finally:
        server.terminate()
        server.wait(PATIENCE)


def open_browser(folder: Path, size: str = DESKTOP, language: str = "en-US") -> Any:
    """A Chromium with a profile of its own, whose requests are written down."""
    if not (CHROMIUM and CHROMEDRIVER):
        missing = "no chromium and chromedriver here: apt-get install chromium chromium-driver"
        # What is meant to test everything must not pass because it could not.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--window-size={size}", f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))


class Page:
    """What a visitor can do and see."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.find("#box textarea") and " · " in self.find("#status")[0].text)

    def find(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Until the condition holds; elements that are replaced meanwhile are looked up again."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        return WebDriverWait(self.browser, PATIENCE, 0.05, ignored).until(lambda _: condition())

    def add_pictures(self, *paths: Path) -> None:
        before = len(self.find("#box .thumbnail-item"))
        chooser = self.find("#box input[type=file]")[0]
        self.browser.execute_script("arguments[0].value = ''", chooser)  # else the last ones come again
        chooser.send_keys("\n".join(map(str, paths)))
        self.wait(lambda: len(self.find("#box .thumbnail-item")) == before + len(paths))

    def type(self, text: str) -> None:
        self.find("#box textarea")[0].send_keys(text)

    @property
    def typed(self) -> str:
        return self.find("#box textarea")[0].get_property("value")

    def click(self, selector: str) -> None:
        self.wait(lambda: self.find(selector) and self.find(selector)[-1].is_enabled())
        self.find(selector)[-1].click()

    def said(self, who: str) -> list[str]:
        """All that the `user` or the `bot` has said in words, as it can be read."""
        return [text for one in self.find(f"#dialogue [data-testid={who}]") if (text := one.text.strip())]

    @property
    def replying(self) -> bool:
        return bool(self.find("#box [data-testid=stop-button], #box .stop-button"))

    def wait_for_reply(self, number: int) -> str:
        """The n-th reply, when it is whole."""
        self.wait(lambda: len(self.said("bot")) == number and not self.replying)
        return self.said("bot")[-1]

    def ask(self, text: str) -> str:
        """Ask and wait; the reply."""
        number = len(self.said("bot")) + 1
        self.type(text + "\n")
        return self.wait_for_reply(number)

    def set(self, name: str, value: str) -> None:
        """A setting."""
        there = self.find(f"#{name} input[type=number]")
        if not there or not there[0].is_displayed():
            self.click("#settings > .label-wrap")
        self.wait(lambda: self.find(f"#{name} input[type=number]"))
        number = self.find(f"#{name} input[type=number]")[0]
        self.wait(number.is_displayed)
        number.clear()
        number.send_keys(value + "\t")
        self.wait(lambda: self.find(f"#{name} input[type=range]")[0].get_property("value") == value)

    @property
    def toasts(self) -> str:
        return " ".join(toast.text for toast in self.find("[data-testid=toast-text]"))

    def requests(self) -> list[str]:
        """The addresses that the browser asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
