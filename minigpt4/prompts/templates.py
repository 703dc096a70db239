"""How each family of language models writes a turn.

Training, evaluation and chat all take their text from a `PromptTemplate`, so that what a model is asked is
spelled, space for space, like what it was trained on.
"""

from dataclasses import dataclass, replace

from minigpt4.common.errors import ConfigError

IMAGE_PLACEHOLDER = "<ImageHere>"
IMAGE_TURN = f"<Img>{IMAGE_PLACEHOLDER}</Img> "


def without_places(text: str) -> str:
    """What is said, without a place for an image: "<ImageHere>" becomes "< ImageHere>"."""
    return text.replace(IMAGE_PLACEHOLDER, f"{IMAGE_PLACEHOLDER[0]} {IMAGE_PLACEHOLDER[1:]}")


@dataclass(frozen=True)
class PromptTemplate:
    """A turn is `user` + what the user says + `assistant` + the reply + `end`.

    Attributes:
        user: what stands before the user's words.
        assistant: what stands between them and the reply.
        end: the end symbol of a reply; the model learns to write it and chat stops there.
        next_turn: what stands between a reply and the next turn's `user` in a dialogue.
        system: what stands before the first turn in a chat.
        after_system: what stands between a system text and the first turn.
    """

    user: str = ""
    assistant: str = ""
    end: str = "\n"
    next_turn: str = ""
    system: str = ""
    after_system: str = ""

    @property
    def marks(self) -> tuple[str, str]:
        """What marks the user's and the assistant's words, whatever the spacing around it."""
        return self.user.strip(), self.assistant.strip()

    def turn(self, text: str) -> str:
        """The prompt for one request, up to where the reply begins."""
        return f"{self.user}{text}{self.assistant}"

    def later_turn(self, text: str) -> str:
        """The prompt for a further request, from behind the end symbol of the reply before it."""
        return f"{self.next_turn}{self.turn(text)}".removeprefix(self.end)

    def with_overrides(self, prompt_template: str | None, end_sym: str | None) -> "PromptTemplate":
        """The same template with the YAML's `prompt_template` ("[INST] {} [/INST] ") and `end_sym`.

        Raises:
            ConfigError: if `prompt_template` has not exactly one `{}`.
        """
        changed = self
        if prompt_template:
            parts = prompt_template.split("{}")
            if len(parts) != 2 or parts[0] == parts[1]:
                raise ConfigError(
                    f"model.prompt_template is {prompt_template!r}: it must hold {{}} once, where the "
                    "request goes, and mark where the reply begins, e.g. '[INST] {} [/INST] '"
                )
            # How a dialogue begins and goes on belongs to the way its turns are marked.
            known = (VICUNA_V0, MINIGPT4_LLAMA2, MINIGPT_V2)
            same = [one for one in known if [one.user, one.assistant] == parts]
            alike = [one for one in known if one.user == parts[0]]
            changed = replace((same + alike + [self])[0], user=parts[0], assistant=parts[1], end=self.end)
        return changed if end_sym is None else replace(changed, end=end_sym)


_GIVE_IMAGE = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide "
    "it to you. Please answer my questions."
)

# Vicuna v0's reply ends where the next "###Human" begins, so a dialogue writes the mark once.
VICUNA_V0 = PromptTemplate("###Human: ", " ###Assistant: ", end="###", system=_GIVE_IMAGE)
# Every turn begins with BOS, as LLaMA-2 was trained. With the space after it, today's tokenizers write the
# ids that it was trained with: "<s>" "▁[" ...
LLAMA2 = PromptTemplate("[INST] ", " [/INST] ", end="</s>", next_turn="</s><s> ", after_system="<s> ")
# How MiniGPT-4 asks LLaMA-2, where the YAML writes this `prompt_template`.
MINIGPT4_LLAMA2 = replace(LLAMA2, system=_GIVE_IMAGE)
MINIGPT_V2 = replace(LLAMA2, assistant=" [/INST]")
GEMMA = PromptTemplate(
    "<start_of_turn>user\n",
    "<end_of_turn>\n<start_of_turn>model\n",
    end="<end_of_turn>",
    next_turn="<end_of_turn>\n",
)
CHATML = PromptTemplate(
    "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
    next_turn="<|im_end|>\n",
)
# For language models that were never taught to chat: a reply is a line of its own. A space in
# between would be a token by itself, and the reply's first word would lack the space that text has before it.
PLAIN = PromptTemplate("", "\n", end="\n", next_turn="\n")
