"""What a turn and a dialogue refuse: text that no tokenizer can be given."""

import pytest

from minigpt4.common.errors import BadSample, BadText
from minigpt4.prompts.dialogue import MAX_CHARACTERS, MAX_TURNS, Dialogue, Turn


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a dog \ud83d", "half of a character"),
        ("\udcff\udcfe", "half of a character"),
        ("a" * (MAX_CHARACTERS + 1), "more than 100,000 characters"),
        (b"a dog", "must be text, not bytes"),
        (None, "must be text, not NoneType"),
    ],
)
def test_a_turn_refuses_what_no_tokenizer_can_be_given(role, text, reason) -> None:
    with pytest.raises(BadText, match=reason) as raised:
        Turn(role, text)
    assert isinstance(raised.value, BadSample) and isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    "text", ["", "\0\x1b\x7f", "\ufeffa dog", "\U0001f415\u200d\U0001f9ba", "\ufffe\uffff", "\u202ea"]
)
def test_a_turn_takes_any_whole_characters(text) -> None:
    assert Turn("user", text).text == text


def test_a_turn_of_the_longest_text() -> None:
    assert len(Turn("assistant", "a" * MAX_CHARACTERS).text) == MAX_CHARACTERS


def test_a_dialogue_of_too_many_turns_is_refused() -> None:
    pairs = [("a", "b")] * (MAX_TURNS // 2)
    assert len(Dialogue.of(pairs).turns) == MAX_TURNS
    with pytest.raises(BadText, match="more than 10,000 turns"):
        Dialogue.of([*pairs, ("a", "b")])
