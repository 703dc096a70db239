"""The demo as a person meets it: started from the command line, used in a browser."""

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.support import ROOT
from tests.support.browsing import DESKTOP, PHONE, Page, demo, open_browser, serving
from tests.support.golden import golden_model_config


def write_config(folder: Path, image_size: int = 56) -> Path:
    section = {"name": "blip2_image_eval", "image_size": image_size}
    config = {
        "model": golden_model_config(model_type="pretrain_llama2", end_sym="</s>"),
        "datasets": {"cc_sbu": {"vis_processor": {"train": section}}},
    }
    OmegaConf.save(OmegaConf.create(config), folder / "demo.yaml")
    return folder / "demo.yaml"


def write_picture(folder: Path, colour: str) -> Path:
    Image.new("RGB", (320, 200), colour).save(folder / f"{colour}.png")
    return folder / f"{colour}.png"


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
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message) -> None:
    (tmp_path / "wrong").mkdir()
    files = {"good": write_config(tmp_path), "wrong": write_config(tmp_path / "wrong", image_size=224)}
    arguments = [argument.format(**files) for argument in arguments]
    done = subprocess.run(demo(*arguments, "--port", "0"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("demo")
    with serving(folder, "--cfg-path", str(write_config(folder))) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    driver = open_browser(tmp_path_factory.mktemp("profile"), DESKTOP)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, address) -> Page:
    return Page(browser, address)


def test_a_visit(page, tmp_path) -> None:
    red, blue = write_picture(tmp_path, "red"), write_picture(tmp_path, "blue")
    page.set("temperature", "0")
    page.set("max-new-tokens", "30")
    page.click("#settings > .label-wrap")

    page.type("\n")  # an empty box asks nothing
    page.add_pictures(red, blue)
    reply = page.ask("what is <this>?")
    assert page.said("user") == ["what is <this>?"]
    assert len(page.find("#dialogue [data-testid=user] img")) == 2
    assert not page.find("#box .thumbnail-item") and page.typed == ""
    assert "tokens/s" in page.find("#status")[0].text

    page.click("#dialogue [title=Retry]")
    assert page.wait_for_reply(1) == reply
    page.ask("colour?")
    assert page.said("bot")[0] == reply and len(page.said("user")) == 2
    page.click("#dialogue [title=Undo]")
    page.wait(lambda: page.said("user") == ["what is <this>?"] and page.typed == "colour?")

    page.click("#new-chat")
    page.wait(lambda: not page.said("user") and not page.said("bot"))
    assert page.typed == "colour?", "the box was touched"
    page.find("#box textarea")[0].clear()
    page.add_pictures(red, blue)
    assert page.ask("what is <this>?") == reply, "the new chat is not what the first one was"


def test_a_reply_does_not_touch_the_box_and_stops(page, tmp_path) -> None:
    page.set("temperature", "0")
    page.set("max-new-tokens", "2048")
    page.type("tell me everything\n")
    page.wait(lambda: page.said("bot") and page.replying)
    for letter in "the next one":
        page.type(letter)
    page.add_pictures(write_picture(tmp_path, "green"))
    early = page.said("bot")[0]
    page.wait(lambda: len(page.said("bot")[0]) > len(early) + 40)
    page.type("\n")
    page.wait(lambda: "A reply is on its way" in page.toasts)
    assert page.typed == "the next one" and len(page.find("#box .thumbnail-item")) == 1

    page.click("#box .stop-button")
    page.wait(lambda: not page.replying)
    assert page.said("bot")[0].endswith("Stopped.")
    assert page.typed == "the next one" and len(page.said("user")) == 1


def test_a_new_chat_during_a_reply_stays_empty(page) -> None:
    page.set("temperature", "0")
    page.set("max-new-tokens", "2048")
    page.type("tell me everything\n")
    page.wait(lambda: page.said("bot") and page.replying)
    page.click("#new-chat")
    page.wait(lambda: not page.said("bot") and not page.replying)
    page.set("max-new-tokens", "5")
    page.ask("colour?")
    assert page.said("user") == ["colour?"]


def test_a_broken_picture_is_told_and_the_question_kept(page, tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.add_pictures(tmp_path / "broken.png")
    page.type("what is this?\n")
    page.wait(lambda: "broken.png cannot be read" in page.toasts)
    assert page.typed == "what is this?" and not page.said("user")
    page.find("#box textarea")[0].click()  # nothing lies over it
    page.click("#box .delete-button")
    page.wait(lambda: not page.find("#box .thumbnail-item"))
    page.add_pictures(write_picture(tmp_path, "red"))
    page.find("#box textarea")[0].clear()
    page.set("max-new-tokens", "5")
    page.type("\n")  # a picture without a word
    assert page.wait_for_reply(1)


def test_a_question_is_edited(page) -> None:
    page.set("temperature", "0")
    page.set("max-new-tokens", "5")
    page.click("#settings > .label-wrap")
    page.ask("a & <b>")
    page.ask("more")
    page.find("#dialogue [title=Edit]")[0].click()
    page.wait(lambda: [one.get_property("value") for one in page.find("#dialogue textarea")] == ["a & <b>"])
    page.find("#dialogue textarea")[0].send_keys(" c")
    page.click("#dialogue [title=Submit]")
    page.wait(lambda: page.said("user") == ["a & <b> c"])
    page.wait_for_reply(1)


def test_what_is_written_becomes_no_html(page) -> None:
    page.set("max-new-tokens", "5")
    attack = "<img src=x onerror='window.broken=1'><script>window.broken=1</script>**x**"
    page.ask(attack)
    assert page.said("user") == [attack]
    assert not page.find("#dialogue .message img, #dialogue .message script")
    assert not page.browser.execute_script("return window.broken")


def test_no_request_leaves_the_machine(page, address, tmp_path) -> None:
    page.set("max-new-tokens", "5")
    page.add_pictures(write_picture(tmp_path, "red"))
    page.ask("![x](http://example.invalid/x.png)")
    page.click("#camera > .label-wrap")
    asked = [url for url in page.requests() if not url.startswith(("data:", "blob:", "chrome:", "about:"))]
    assert asked and all(url.startswith(address) for url in asked), asked


def fetched(address: str, path: str, cookie: str = "", form: str | None = None) -> int:
    """The status of the answer."""
    data = None if form is None else form.encode()
    request = urllib.request.Request(address + path, data, {"Cookie": cookie} if cookie else {})
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


def test_pictures_are_their_visitors(page, address, tmp_path) -> None:
    page.set("max-new-tokens", "5")
    page.add_pictures(write_picture(tmp_path, "red"))
    page.ask("what is this?")
    path = page.find("#dialogue [data-testid=user] img")[0].get_property("src").removeprefix(address)
    (cookie,) = page.browser.get_cookies()
    mine = f"{cookie['name']}={cookie['value']}"
    assert fetched(address, path, mine) == 200
    assert fetched(address, path) == fetched(address, path, f"{cookie['name']}=another") == 404


@pytest.mark.parametrize(
    "path",
    [
        f"/gradio_api/file={ROOT / 'README.md'}",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=README.md",
        f"/gradio_api/file={'../' * 9}etc/passwd",
        f"/gradio_api/file={quote('../' * 9 + 'etc/passwd', safe='')}",
        f"/gradio_api/file={quote(quote('/etc/passwd', safe=''), safe='')}",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/static/../../routes.py",
        f"/static/{quote('../../../routes.py', safe='')}",
        f"/assets/{quote('../../../../../../../etc/passwd', safe='')}",
        "/gradio_api/info",
        "/docs",
        "/openapi.json",
        "/monitoring",
    ],
)
def test_no_other_file_or_page_is_served(address, path) -> None:
    assert fetched(address, path) in (403, 404)


def test_two_visitors_at_once_do_not_meet(page, address, tmp_path) -> None:
    page.set("temperature", "0")
    page.set("max-new-tokens", "2048")
    page.type("the first visitor's\n")
    page.wait(lambda: page.said("bot") and page.replying)
    other_browser = open_browser(tmp_path, PHONE, language="zh-CN")
    try:
        other = Page(other_browser, address)
        assert other.find("#new-chat")[0].text == "新对话"
        assert not other.said("user")
        other.set("max-new-tokens", "5")
        other.click("#settings > .label-wrap")
        other.ask("the second visitor's")
        assert other.said("user") == ["the second visitor's"]
        assert page.said("user") == ["the first visitor's"]
        assert_fits(other)
    finally:
        other_browser.quit()
    page.click("#new-chat")


def assert_fits(page: Page) -> None:
    """On a phone, all is within the window, and the dialogue has most of it."""
    size = "return [innerWidth, innerHeight, document.documentElement.scrollWidth]"
    width, height, scrolled = page.browser.execute_script(size)
    assert width < 520 and scrolled <= width
    boxes = [page.find(name)[0].rect for name in ("#status", "#dialogue", "#box", "#settings")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes)
    assert boxes[1]["height"] > height / 2


def test_a_password_is_asked_for(tmp_path) -> None:
    with serving(tmp_path, "--cfg-path", str(write_config(tmp_path)), "--auth", "me:secret") as address:
        assert fetched(address, "/config") == 401
        assert fetched(address, "/login", form="username=me&password=wrong") == 400
        assert fetched(address, "/login", form="username=me&password=secret") == 200
