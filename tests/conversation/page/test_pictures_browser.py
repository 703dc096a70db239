"""Pictures on the page, in a browser: how they get there, and who may see them."""

import base64
import socket
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest

from tests.support import ROOT
from tests.support.browsing import Page


def test_pictures_are_chosen_dropped_and_pasted(page, engine, pictures) -> None:
    engine.script = ["Three."]
    page.add_pictures(pictures[0])
    page.drop(pictures[1])
    page.wait(lambda: len(page.find("#box .thumbnail-item")) == 2)
    page.paste_picture(base64.b64encode(pictures[2].read_bytes()).decode())
    page.wait(lambda: len(page.find("#box .thumbnail-item")) == 3)
    page.ask("how many?")
    shown = page.find("#dialogue [data-testid=user] img")
    assert [one.get_property("naturalWidth") for one in shown] == [320, 320, 320]


def test_a_picture_is_taken_with_the_camera(page, engine) -> None:
    engine.script = ["A test picture."]
    page.type("what is this?")
    page.click("#camera > .label-wrap")
    page.click("#camera [title='grant webcam access'] button")
    page.wait(lambda: page.find("#camera video")[0].get_property("videoWidth"))
    page.click("#camera [aria-label='capture photo']")
    page.wait(lambda: len(page.find("#box .thumbnail-item")) == 1)
    assert page.typed == "what is this?"
    page.type("\n")
    assert page.wait_for_reply(1) == "A test picture."
    assert page.find("#dialogue [data-testid=user] img")[0].get_property("naturalWidth") > 100


def test_a_broken_picture_is_told_and_the_question_kept(page, engine, pictures, tmp_path) -> None:
    engine.script = ["Before.", "Red."]
    page.ask("hello")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.add_pictures(tmp_path / "broken.png")
    page.type("what is this?\n")
    page.wait(lambda: "broken.png cannot be read" in page.toasts)
    page.wait(lambda: page.typed == "what is this?" and page.find("#box .delete-button"))
    assert page.said("user") == ["hello"]
    page.find("#box textarea")[0].click()  # nothing lies over it
    page.click("#box .delete-button")
    page.wait(lambda: not page.find("#box .thumbnail-item"))
    page.add_pictures(pictures[0])
    page.clear()
    page.type("\n")  # a picture without a word
    assert page.wait_for_reply(2) == "Red."
    assert page.said("user") == ["hello"]


def test_no_request_leaves_the_machine(page, address, engine, pictures, monkeypatch) -> None:
    """Neither from the browser nor from the server."""
    connected: list[str] = []
    connect = socket.socket.connect

    def noted(sock, where) -> None:
        connected.append(str(where[0] if isinstance(where, tuple) else where))
        connect(sock, where)

    monkeypatch.setattr(socket.socket, "connect", noted)
    engine.script = ["![x](http://example.invalid/x.png) <img src=http://example.invalid/y.png>"]
    page.requests()  # of earlier tests
    page = Page(page.browser, address)
    page.add_pictures(pictures[0])
    page.ask("![x](http://example.invalid/x.png)")
    page.click("#camera > .label-wrap")
    asked = [url for url in page.requests() if not url.startswith(("data:", "blob:", "chrome:", "about:"))]
    assert asked and all(url.startswith(address) for url in asked), asked
    assert set(connected) <= {"127.0.0.1", "localhost"}, connected


def fetched(address: str, path: str, cookie: str = "") -> int:
    """The status of the answer."""
    request = urllib.request.Request(address + path, headers={"Cookie": cookie} if cookie else {})
    try:
        return urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


def test_pictures_are_their_visitors(page, address, engine, pictures) -> None:
    engine.script = ["Red."]
    page.add_pictures(pictures[0])
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
