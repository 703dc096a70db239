"""Whole prompts as ids and dialogues as texts, for tests that spell them out."""

from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder


def whole(prompt: str, answer: str | None = None) -> Dialogue:
    """A prompt, marks and all."""
    if answer is not None:
        return Dialogue.prompted(prompt, answer)
    return Dialogue((Turn("user", prompt, verbatim=True),))


def prompt_ids(prompts: PromptEncoder, prompt: str | Dialogue) -> list[int]:
    return prompts.ids(whole(prompt) if isinstance(prompt, str) else prompt)[0]


def answer_ids(prompts: PromptEncoder, answer: str) -> list[int]:
    """The ids of an answer that is learned."""
    ids, targets = prompts.ids(whole("x", answer))
    return [ids[place] for place in targets]


def written(prompts: PromptEncoder, dialogue: Dialogue) -> str:
    """All turns as one text."""
    return "".join(text for _, text in prompts.texts(dialogue))
