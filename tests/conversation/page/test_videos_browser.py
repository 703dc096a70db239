"""Videos on the page, in a browser: the frames that the model saw, their times, and what cannot be read."""

from pathlib import Path

import pytest

from tests.support.videos import write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Of two frames, one a second."""
    return write_video(tmp_path / "party.mp4", frames=2, fps=1, size=(64, 36))


def test_a_video_is_shown_as_the_frames_that_were_seen(page, engine, pictures, video, tmp_path) -> None:
    page.may_use_clipboard()
    engine.script = ["A party.", "Another.", "A room."]
    page.add_pictures(video)
    assert page.ask("what <happens>?") == "A party."
    times = [one.text for one in page.find("#dialogue .film .frame")]
    assert times == ["0:00", "0:01"]
    frames = page.find("#dialogue .film img")
    assert [one.get_property("naturalWidth") for one in frames] == [171] * 2
    assert page.find("#dialogue .film .name")[0].text == "party.mp4"
    assert page.said("user")[-1].endswith("what <happens>?")
    page.find("#dialogue .message-buttons [title^=Cop]")[0].click()  # the words alone
    read = "navigator.clipboard.readText().then(arguments[0])"
    page.wait(lambda: page.browser.execute_async_script(read) == "what <happens>?")

    page.click("#dialogue [title=Retry]")
    page.wait(lambda: page.said("bot") == ["Another."] and not page.replying)
    assert len(page.find("#dialogue .film .frame")) == 2

    (tmp_path / "broken.mp4").write_bytes(b"no video")
    page.add_pictures(tmp_path / "broken.mp4")
    page.type("and this?\n")
    page.wait(lambda: "broken.mp4 cannot be read" in page.toasts)
    page.wait(lambda: page.typed == "and this?" and page.find("#box .delete-button"))
    page.click("#box .delete-button")
    page.wait(lambda: not page.find("#box .thumbnail-item, #box .delete-button"))
    page.clear()
    page.add_pictures(pictures[0])
    assert page.ask("where?") == "A room."
    assert len(page.find("#dialogue .film")) == 1
    assert len(page.find("#dialogue [data-testid=user] img:not(.film *)")) == 1
