"""Questions and replies on the page, in a browser: what a visitor types, reads and clicks."""

import pytest

from minigpt4.conversation.page.examples import Example
from tests.support.browsing import serving_here

TOLD = "It is **red**."


@pytest.fixture(scope="module")
def address(tmp_path_factory, loader):
    """With two examples."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("page")
    pictures = [str(folder / f"{colour}.png") for colour in ("red", "blue")]
    for path in pictures:
        Image.new("RGB", (64, 64), "red").save(path)
    examples = [
        Example((pictures[0],), ("What is this?", "Which colour?")),
        Example(tuple(pictures), ("What differs?",)),
    ]
    with serving_here(folder, loader, examples) as address:
        yield address


def test_questions_are_asked_again_taken_back_and_forgotten(page, engine, pictures) -> None:
    engine.script = [TOLD, "It is blue.", "Yes."]
    page.type("\n")  # an empty box asks nothing
    page.add_pictures(*pictures[:2])
    assert page.ask("what is <this>?") == "It is red."
    assert page.find("#dialogue [data-testid=bot] strong")[0].text == "red"
    assert page.said("user") == ["what is <this>?"]
    assert len(page.find("#dialogue [data-testid=user] img")) == 2
    assert not page.find("#box .thumbnail-item") and page.typed == ""
    assert "tokens/s" in page.find("#status")[0].text

    page.click("#dialogue [title=Retry]")
    page.wait(lambda: page.said("bot") == ["It is blue."] and not page.replying)
    page.ask("really?")
    page.click("#dialogue [title=Undo]")
    page.wait(lambda: page.said("user") == ["what is <this>?"] and page.typed == "really?")

    page.click("#new-chat")
    page.wait(lambda: not page.said("user") and not page.said("bot"))
    assert page.typed == "really?", "the box was touched"


def test_the_model_gets_what_was_asked(page, loader, pictures) -> None:
    """With a new chat, the same reply again; and the one that the model gives without a page."""
    page.set("temperature", "0")
    page.set("max-new-tokens", "8")
    page.click("#settings > .label-wrap")
    page.add_pictures(*pictures[:2])
    reply = page.ask("what is this?")
    page.click("#new-chat")
    page.wait(lambda: not page.said("user"))
    page.add_pictures(*pictures[:2])
    assert page.ask("what is this?") == reply
    chat = loader.model.chat("what is this?", pictures[:2], temperature=0, max_new_tokens=8)
    assert reply.removesuffix("The reply reached the longest length.").split() == chat.split()


def test_a_reply_does_not_touch_the_box_and_stops(page, engine, pictures) -> None:
    engine.hold()
    engine.script = ["one two three four five six seven"]
    page.type("count\n")
    page.wait(lambda: page.replying)
    for letter in "the next one":
        page.type(letter)
        engine.allow(1)
    page.wait(lambda: "one two" in page.said("bot")[0])
    page.add_pictures(pictures[0])
    page.type("\n")
    page.wait(lambda: "A reply is on its way" in page.toasts)
    page.wait(lambda: page.typed == "the next one" and len(page.find("#box .thumbnail-item")) == 1)

    page.click("#box .stop-button")
    page.wait(lambda: engine.allow(1) or not page.replying)  # generation stops at a token
    assert page.said("bot")[0].endswith("Stopped.") and "seven" not in page.said("bot")[0]
    assert page.typed == "the next one" and page.said("user") == ["count"]


def test_a_question_that_fails_later_does_not_wipe_what_was_typed(page, loader, pictures) -> None:
    model, loader.model = loader.model, None
    try:
        page.add_pictures(pictures[0])
        page.type("first\n")
        page.wait(lambda: page.said("user") == ["first"] and page.typed == "")
        page.type("second")
        page.add_pictures(pictures[1])
        page.click("#box .stop-button")
        page.wait(lambda: not page.said("user"))
    finally:
        loader.model = model
    page.wait(lambda: page.typed == "first\nsecond" and len(page.find("#box .thumbnail-item")) == 2)


def test_a_new_chat_during_a_reply_stays_empty(page, engine) -> None:
    engine.hold()
    engine.script = ["one two three four five", "blue"]
    page.type("count\n")
    engine.allow(4)
    page.wait(lambda: page.said("bot") and page.replying)
    page.click("#new-chat")
    page.wait(lambda: engine.allow(1) or not (page.said("bot") or page.replying))
    engine.allow(100)
    assert page.ask("colour?") == "blue"
    assert page.said("user") == ["colour?"]


def test_a_question_is_edited(page, engine) -> None:
    engine.script = ["A.", "B.", "C."]
    page.ask("a & <b>")
    page.ask("more")
    page.find("#dialogue [title=Edit]")[0].click()
    page.wait(lambda: [one.get_property("value") for one in page.find("#dialogue textarea")] == ["a & <b>"])
    page.find("#dialogue textarea")[0].send_keys(" c")
    page.click("#dialogue [title=Submit]")
    page.wait(lambda: page.said("user") == ["a & <b> c"] and page.said("bot") == ["C."])


def test_what_is_written_becomes_no_html(page, engine) -> None:
    attack = "<img src=x onerror='window.broken=1'><script>window.broken=1</script>**x**"
    engine.script = [attack + "<b>y</b>[z](javascript:window.broken=1)"]
    reply = page.ask(attack)
    assert page.said("user") == [attack]
    assert reply == attack.replace("**", "") + "<b>y</b>[z](javascript:window.broken=1)"
    assert not page.find("#dialogue .message :is(img, script, b, a)")
    assert not page.browser.execute_script("return window.broken")


def test_a_reply_is_copied_as_it_was_written(page, engine) -> None:
    page.may_use_clipboard()
    engine.script = ["**1 < 2** & `x`"]
    page.ask("a < b & c")
    read = "navigator.clipboard.readText().then(arguments[0])"
    for place, written in enumerate(["a < b & c", "**1 < 2** & `x`"]):
        page.find("#dialogue .message-buttons [title^=Cop]")[place].click()
        page.wait(lambda written=written: page.browser.execute_async_script(read) == written)


def test_examples_are_asked_and_go_on(page, engine) -> None:
    engine.script = ["A square.", "Red.", "Nothing."]
    page.type("typed before")
    assert len(page.find("#dialogue .example")) == 2
    page.find("#dialogue .example")[0].click()
    assert page.wait_for_reply(1) == "A square."
    assert page.said("user") == ["What is this?"]
    assert len(page.find("#dialogue [data-testid=user] img")) == 1
    page.wait(lambda: [one.text for one in page.find("#dialogue .option")] == ["Which colour?"])
    page.click("#dialogue .option")
    assert page.wait_for_reply(2) == "Red."
    page.wait(lambda: not page.find("#dialogue .option"))
    page.click("#new-chat")
    page.wait(lambda: len(page.find("#dialogue .example")) == 2)
    page.find("#dialogue .example")[1].click()
    assert page.wait_for_reply(1) == "Nothing."
    assert len(page.find("#dialogue [data-testid=user] img")) == 2
    assert page.typed == "typed before"


def test_a_reply_that_was_cut_goes_on(page, engine) -> None:
    engine.script = ["one two three four", "five."]
    page.set("max-new-tokens", "4")
    page.click("#settings > .label-wrap")
    assert page.ask("count").endswith("The reply reached the longest length.")
    page.set("max-new-tokens", "40")
    page.click("#settings > .label-wrap")
    page.wait(lambda: [one.text for one in page.find("#dialogue .option")] == ["Continue"])
    page.click("#dialogue .option")
    assert page.wait_for_reply(2) == "five."
    assert page.said("user") == ["count", "Continue."] and not page.find("#dialogue .option")


def test_turns_that_do_not_fit_are_left_out_and_told(page, engine, loader) -> None:
    engine.script = ["one.", "two.", "three."]
    words = "word " * 20
    replies = []
    for number in range(3):
        page.insert(words)
        page.type("\n")
        replies.append(page.wait_for_reply(number + 1))
    told = "\nEarlier questions that did not fit and were left out: "
    assert replies == ["one.", f"two.{told}1.", f"three.{told}2."]
    page.insert(words * 6)
    page.type("\n")
    page.wait(lambda: "the model reads at most 128 tokens" in page.toasts)
    page.wait(lambda: page.typed == words * 6)
    assert len(page.said("user")) == 3
