"""How the page looks: dark, on a phone, in Chinese."""

import re

import pytest

from minigpt4.conversation.page.labels import LABELS
from tests.support.browsing import PHONE, Page, open_browser


def lightness(colour: str) -> float:
    """The mean of red, green and blue, from 0 to 255, of a CSS colour `rgb(…)`."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(browser, address, engine, scheme) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    engine.script = ["A reply."]
    page = Page(browser, address)
    page.ask("a question")
    read = "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]"
    for selector in ("body", "#dialogue .user.message", "#dialogue .bot.message", "#box textarea"):
        colour, background = (lightness(one) for one in browser.execute_script(read, page.find(selector)[0]))
        if scheme == "dark":
            assert colour > 180, selector
        else:
            assert (colour < 110 and background < 1) or background > 200, selector
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_page_fits_a_phone_in_chinese(address, engine, tmp_path, pictures) -> None:
    engine.script = ["长" * 8]
    browser = open_browser(tmp_path, PHONE, language="zh-CN")
    try:
        page = Page(browser, address)
        page.add_pictures(pictures[0])
        page.ask("字" * 12)
        page.assert_fits()
        texts = page.find("#page")[0].text
        assert LABELS["zh"]["new_chat"] in texts and LABELS["zh"]["settings"] in texts
        assert not re.findall(r"[A-Za-z]{3,}", texts.replace(page.find("#status")[0].text, ""))
    finally:
        browser.quit()


def test_every_text_is_there_in_both_languages() -> None:
    assert LABELS["en"].keys() == LABELS["zh"].keys()
    fields = {name: set(re.findall(r"{\w+}", text)) for name, text in LABELS["en"].items()}
    assert all(set(re.findall(r"{\w+}", text)) <= fields[name] for name, text in LABELS["zh"].items())
