"""Loading, waiting and visitors side by side, in a browser."""

import gc
import weakref

import pytest

from minigpt4.conversation.page import events, serving
from minigpt4.conversation.page.loader import Loader
from minigpt4.conversation.page.visitor import Visitor
from tests.support.browsing import PHONE, Page, open_browser, serving_here

DIALOGUES = 2


@pytest.fixture(scope="module")
def waiting() -> Loader:
    """Of a model that is not built yet."""
    return Loader("folder/weights.pth")


@pytest.fixture(scope="module")
def visitors() -> list[weakref.ref]:
    """All that there have been, the oldest first."""
    return []


@pytest.fixture(scope="module")
def address(tmp_path_factory, waiting, visitors):
    """A page that generates one reply at a time, and keeps few dialogues."""
    new = Visitor.__init__

    def noted(visitor: Visitor) -> None:
        new(visitor)
        visitors.append(weakref.ref(visitor))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "AT_ONCE", 1)
        patch.setattr(serving, "MOST_VISITORS", DIALOGUES)
        patch.setattr(Visitor, "__init__", noted)
        with serving_here(tmp_path_factory.mktemp("page"), waiting) as address:
            yield address


@pytest.fixture
def ready(waiting, loader) -> None:
    """The model is loaded."""
    waiting.model = loader.model


@pytest.fixture
def page(ready, browser, address, engine) -> Page:
    return Page(browser, address)


@pytest.fixture
def other(ready, address, tmp_path):
    """Another visitor, who has a phone and reads Chinese."""
    browser = open_browser(tmp_path, PHONE, "zh-CN")
    yield lambda: Page(browser, address)
    browser.quit()


def test_the_page_opens_and_takes_questions_while_the_model_loads(browser, address, waiting, loader, engine):
    """The model is only built when the page has shown both steps."""
    engine.script = ["Warming up.", "Ready."]
    page = Page(browser, address, ready="step 1 of 2, reading weights")
    page.type("are you there?\n")
    page.wait(lambda: "reading weights" in "".join(page.said("bot")) and page.replying)
    waiting.step = "warm_up"
    page.wait(lambda: "step 2 of 2, warming up" in page.find("#status")[0].text)
    page.wait(lambda: "warming up" in page.said("bot")[0])
    waiting.load(lambda: loader.model)
    assert page.wait_for_reply(1) == "Ready."
    page.wait(lambda: page.find("#status")[0].text.startswith("MiniGPT4 · llm · weights.pth · cpu · float32"))


def test_visitors_wait_in_a_line_and_do_not_meet(page, other, engine) -> None:
    engine.hold()
    engine.script = ["one two three", "四五"]
    page.type("the first visitor's\n")
    page.wait(lambda: engine.allow(1) or page.said("bot"))
    second = other()
    assert second.find("#new-chat")[0].text == "新对话" and not second.said("user")
    second.type("the second visitor's\n")
    second.wait(lambda: second.said("bot") == ["排队中:前面还有 1 个"])
    engine.allow(100)
    assert page.wait_for_reply(1) == "one two three"
    assert second.wait_for_reply(1) == "四五"
    assert page.said("user") == ["the first visitor's"] and second.said("user") == ["the second visitor's"]
    second.assert_fits()


def test_why_there_is_no_reply_is_told_in_the_visitors_language(other, engine) -> None:
    page = other()
    page.insert("字" * 200)
    page.type("\n")
    page.wait(lambda: "问题太长:模型最多读取 128 个词元" in page.toasts)
    page.wait(lambda: page.typed == "字" * 200)


def test_beams_appear_all_at_once(page, engine) -> None:
    page.set("num-beams", "3")
    page.set("max-new-tokens", "12")
    page.click("#settings > .label-wrap")
    engine.hold()
    engine.script = ["Found."]
    page.type("search\n")
    page.wait(lambda: page.find("#dialogue .typing[title='The model is about to reply']"))
    assert not page.said("bot")
    engine.allow(1)
    assert page.wait_for_reply(1) == "Found."
    assert not page.find("#dialogue .typing")


def test_the_oldest_dialogues_are_forgotten_first(ready, browser, address, engine, visitors) -> None:
    engine.script = ["Yes."] * (DIALOGUES + 3)
    mine, tabs = browser.current_window_handle, []
    for _ in range(DIALOGUES + 1):
        browser.switch_to.new_window("tab")
        page = Page(browser, address)
        page.ask("are you there?")
        tabs.append(browser.current_window_handle)
    page.wait(lambda: gc.collect() and sum(bool(one() and one().turns) for one in visitors) == DIALOGUES)
    page.type("and now?\n")
    page.wait(lambda: page.said("user") == ["are you there?", "and now?"] and not page.replying)
    browser.switch_to.window(tabs[0])
    page.type("and now?\n")
    page.wait(lambda: page.said("user") == ["and now?"] and not page.replying)
    for tab in tabs:
        browser.switch_to.window(tab)
        browser.close()
    browser.switch_to.window(mine)
