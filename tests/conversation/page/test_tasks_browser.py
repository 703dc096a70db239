"""MiniGPT-v2's tasks on the page, in a browser: their buttons, boxes on pictures, a sketched box."""

import io
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from minigpt4.conversation.page.messages import COLOURS
from minigpt4.conversation.page.tasks import TASKS
from tests.support.browsing import PHONE, Page, open_browser, serving_here


@pytest.fixture(scope="module")
def address(tmp_path_factory, loader):
    with serving_here(tmp_path_factory.mktemp("page"), loader, tasks=TASKS) as address:
        yield address


def choose(page: Page, task: str) -> None:
    page.find("#tasks label")[TASKS.index(task)].click()
    page.wait(lambda: page.find("#page")[0].get_dom_attribute("data-task") == task)


def drawn(page: Page) -> np.ndarray:
    """The picture in the last reply."""
    page.wait(lambda: page.find("#dialogue [data-testid=bot] img"))
    cookies = "; ".join(f"{one['name']}={one['value']}" for one in page.browser.get_cookies())
    source = page.find("#dialogue [data-testid=bot] img")[-1].get_property("src")
    found = urllib.request.urlopen(urllib.request.Request(source, headers={"Cookie": cookies}))
    return np.asarray(Image.open(io.BytesIO(found.read())).convert("RGB"))


def test_buttons_put_the_identifier_in_front(page, engine, pictures) -> None:
    engine.script = ["Red.", "Hello."]
    choose(page, "vqa")
    page.wait(lambda: "short answer" in page.find("#box textarea")[0].get_property("placeholder"))
    page.type("which colour?\n")
    page.wait(lambda: "Add a picture first" in page.toasts and page.typed == "which colour?")
    page.add_pictures(pictures[0])
    page.type("\n")
    page.wait_for_reply(1)
    choose(page, "")
    page.ask("hi")
    assert page.said("user") == ["[vqa] which colour?", "hi"]
    choose(page, "refer")
    page.add_pictures(pictures[1])
    page.type("\n")
    page.wait(lambda: "This task needs words" in page.toasts)
    page.wait(lambda: len(page.find("#box .thumbnail-item")) == 1)


def test_phrases_have_the_colours_of_their_boxes(page, engine, pictures) -> None:
    engine.script = [
        "<p>a <</p> & <p>red & blue</p> {<10><20><50><90>}<delim>{<60><20><90><90>} by {<0><0><5><5>}"
    ]
    choose(page, "grounding")
    page.add_pictures(pictures[2])
    page.type("\n")
    reply = page.wait_for_reply(1)
    assert page.said("user")[0].startswith("[grounding] ")
    assert reply == "<p>a <</p> & red & blue by (0, 0, 5, 5)"
    marked = page.find("#dialogue .boxed")
    assert [one.text for one in marked] == ["red & blue", "(0, 0, 5, 5)"]
    lines = [one.value_of_css_property("border-bottom-color") for one in marked]
    assert lines == [f"rgba({r}, {g}, {b}, 1)" for r, g, b in COLOURS[:2]]
    pixels = drawn(page)
    assert pixels.shape == (200, 320, 3)
    # The right sides of both boxes, and the lower side of the third.
    assert [tuple(pixels[150, at]) for at in (160, 288)] == [COLOURS[0]] * 2
    assert tuple(pixels[10, 8]) == COLOURS[1]
    assert tuple(pixels[100, 100]) == (0, 0, 255)


def test_drawn_pictures_are_their_visitors(page, engine, pictures) -> None:
    engine.script = ["{<10><20><50><90>}"]
    choose(page, "refer")
    page.add_pictures(pictures[0])
    page.type("it\n")
    page.wait_for_reply(1)
    assert drawn(page).shape == (200, 320, 3)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(page.find("#dialogue [data-testid=bot] img")[-1].get_property("src"))


@pytest.mark.parametrize("pointer", ["mouse", "finger"])
def test_a_sketched_box_is_identified(request, page, address, engine, pictures, tmp_path, pointer) -> None:
    if pointer == "finger":
        phone = open_browser(tmp_path, PHONE)
        request.addfinalizer(phone.quit)
        page = Page(phone, address)
    engine.script = ["A wall.", "A corner."]
    choose(page, "identify")
    page.add_pictures(pictures[0])
    page.type("\n")
    page.wait(lambda: "Draw a box on the picture first" in page.toasts)
    page.wait(lambda: page.find("#box .thumbnail-item") and page.find("#sketch .sheet")[0].rect["width"] > 50)
    page.sketch(pointer, (0.255, 0.305), (0.755, 0.905))
    assert page.find("#sketch .frame")[0].is_displayed()
    page.type("\n")
    assert page.wait_for_reply(1) == "A wall."
    assert page.said("user") == ["[identify] {<25><30><75><90>}"]
    assert tuple(drawn(page)[120, 240]) == COLOURS[0]
    # The picture of the dialogue can be asked about again, with another box, drawn backwards.
    page.sketch(pointer, (0.505, 0.505), (-0.2, 0.005))
    page.type("What is there?\n")
    assert page.wait_for_reply(2) == "A corner."
    assert page.said("user")[1] == "[identify] What is there? {<0><0><50><50>}"
    if pointer == "finger":
        choose(page, "")  # the sketch needs its room
        page.assert_fits()
