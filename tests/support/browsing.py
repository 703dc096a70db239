"""The page as a person meets it: a server, a browser, and what a visitor can do and see."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.ports import listening
from minigpt4.conversation.page.examples import Example
from minigpt4.conversation.page.layout import build_page
from minigpt4.conversation.page.loader import Loader
from minigpt4.conversation.page.privacy import Uploads
from minigpt4.conversation.page.serving import Address, serving
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
    # A camera that films a test picture, and may be used.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
DESKTOP, PHONE = "1280,900", "390,844"
PATIENCE = 90  # seconds, for machines with a lot to do


def demo(*arguments: str, python: tuple[str, ...] = ()) -> list[str]:
    """The command."""
    return [sys.executable, *python, str(ROOT / "demo.py"), *arguments]


@contextlib.contextmanager
def serving_here(
    folder: Path, loader: Loader, examples: Sequence[Example] = (), tasks: Sequence[str] = ()
) -> Iterator[str]:
    """The page, served by this process, whose model a test can hold; its address."""
    uploads = Uploads()
    with listening("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        page = build_page(loader, uploads, examples, tasks=tasks)
        with serving(page, uploads, Address("127.0.0.1", port)):
            yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serving_demo(folder: Path, *arguments: str) -> Iterator[str]:
    """`demo.py` in another process; its address."""
    log = folder / "log.txt"
    environment = os.environ | {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = demo(*arguments, "--device", "cpu", "--port", "0", "--no-browser")
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
    """What a visitor can do and see.

    Args:
        browser: loads the page.
        address: of the page.
        ready: what the line above the dialogue shows then; by default, the model's description.
    """

    def __init__(self, browser: Any, address: str, ready: str = " · ") -> None:
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.find("#box textarea") and ready in self.find("#status")[0].text)

    def find(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition holds; elements that are replaced meanwhile are looked up again."""
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

    def drop(self, path: Path) -> None:
        """Drop a file onto the box, as from a file manager."""
        place = self.find("#box textarea")[0].rect
        at = {"x": place["x"] + 20, "y": place["y"] + 10}
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **at, "data": data})

    def may_use_clipboard(self) -> None:
        allowed = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        self.browser.execute_cdp_cmd("Browser.grantPermissions", allowed)

    def paste_picture(self, png: str) -> None:
        """Paste a picture, in base64, from the clipboard."""
        self.may_use_clipboard()
        copied = self.browser.execute_async_script(
            """const [png, done] = arguments;
            fetch("data:image/png;base64," + png).then((found) => found.blob())
              .then((blob) => navigator.clipboard.write([new ClipboardItem({[blob.type]: blob})]))
              .then(() => done(true), (error) => done(String(error)))""",
            png,
        )
        assert copied is True, copied
        self.find("#box textarea")[0].send_keys("\ue009v")  # Ctrl+V

    def type(self, text: str) -> None:
        self.find("#box textarea")[0].send_keys(text)

    def insert(self, text: str) -> None:
        """Much text at once, where `type` would take long."""
        self.find("#box textarea")[0].click()
        self.browser.execute_cdp_cmd("Input.insertText", {"text": text})

    def clear(self) -> None:
        """Empty the box's text as a person does; Selenium's own way is not seen by the page."""
        self.type("\ue009a\ue000\ue017")  # Ctrl+A, Delete

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

    def sketch(self, pointer: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw with a `mouse` or a `finger` from one point to another, in parts of the sketched picture."""
        sheet = self.find("#sketch .sheet")[0]
        script = "const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.width, r.height]"
        left, top, width, height = self.browser.execute_script(script, sheet)
        places = [{"x": left + x * width, "y": top + y * height} for x, y in (start, end)]
        if pointer == "mouse":
            kinds = ("mousePressed", "mouseMoved", "mouseReleased")
            for kind, at in zip(kinds, (places[0], places[1], places[1]), strict=True):
                event = {"type": kind, "button": "left", "buttons": 1, "clickCount": 1, **at}
                self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        else:
            for kind, at in (("touchStart", places[:1]), ("touchMove", places[1:]), ("touchEnd", [])):
                self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    def assert_fits(self) -> None:
        """On a phone, all is within the window, and the dialogue has most of it."""
        size = "const {scrollWidth, scrollHeight} = document.documentElement;"
        size += "return [innerWidth, innerHeight, scrollWidth, scrollHeight]"
        width, height, wide, high = self.browser.execute_script(size)
        assert width < 520 and wide <= width and high <= height
        boxes = [self.find(name)[0].rect for name in ("#status", "#dialogue", "#box", "#settings")]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        assert all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes)
        assert boxes[1]["height"] > height / 2

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
