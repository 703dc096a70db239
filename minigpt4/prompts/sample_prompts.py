"""The text around the images of a batch, in the turns of one template."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.errors import ConfigError, nearest
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, PromptTemplate
from minigpt4.weights.resolver import require_value


class SamplePrompts:
    """Writes what stands before the answers that a model learns or gives.

    Args:
        template: how turns are written.
        requests: of which training draws one a batch; without any, the bare image stands there.

    Attributes:
        written: `requests` as turns.
    """

    def __init__(self, template: PromptTemplate, requests: Sequence[str]) -> None:
        self.template = template
        self.written = [template.turn(request) for request in requests]

    def bare_caption(self) -> str:
        """The prompt under which captions were trained: the first request, or the bare image."""
        return self.written[0] if self.written else IMAGE_PLACEHOLDER

    def drawn(self, samples: dict[str, Any]) -> list[str]:
        """A prompt for each sample: its own instruction, or the same request, drawn anew, for all."""
        batch = len(samples["answer"])
        if "instruction_input" in samples:
            return list(samples["instruction_input"])
        return [random.choice(self.written) if self.written else IMAGE_PLACEHOLDER] * batch

    def for_training(self, samples: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Prompts and answers as `PromptEncoder.encode` takes them; dialogues where `conv_q` is given."""
        prompts = self.drawn(samples)
        if "conv_q" in samples and "instruction_input" not in samples:
            return self.turns(samples, own=prompts[0])
        return prompts, samples["answer"]

    def turns(self, samples: dict[str, Any], own: str) -> tuple[list[list[str]], list[list[str]]]:
        """Each dialogue's prompts as the template writes them, and the answers to them.

        Args:
            samples: with `conv_q` and `conv_a`, lists of turns or texts joined by `connect_sym`. What is
                asked is bare, `<Img><ImageHere></Img>` where an image goes; None asks what `own` asks.
            own: a whole prompt.
        """
        questions, answers = samples["conv_q"], samples["conv_a"]
        if "connect_sym" in samples:
            signs = samples["connect_sym"]
            questions = [text.split(sign) for text, sign in zip(questions, signs, strict=True)]
            answers = [text.split(sign) for text, sign in zip(answers, signs, strict=True)]
        prompts = []
        for first, *later in questions:
            begin = own if first is None else self.template.turn(first)
            prompts.append([begin, *(self.template.later_turn(question) for question in later)])
        return prompts, answers

    def for_evaluation(self, samples: dict[str, Any]) -> list[str]:
        """The whole prompt before each sample's `answer`, its earlier turns included, as chat writes it."""
        if "instruction_input" in samples:
            return list(samples["instruction_input"])
        if "conv_q" not in samples:
            return [self.bare_caption()] * len(samples["answer"])
        end = self.template.end
        return [
            "".join(prompt + answer + end for prompt, answer in zip(prompts, answers[:-1], strict=False))
            + prompts[-1]
            for prompts, answers in zip(*self.turns(samples, self.bare_caption()), strict=True)
        ]


def read_requests(path: str) -> list[str]:
    """The requests of a file, one a line; those without an image are left out, as in the original.

    Raises:
        ConfigError: if there is no such file, or no line of it has an image.
    """
    if not path:
        return []
    file = Path(require_value(path, "model.prompt_path")).expanduser()
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*.txt")]
        raise ConfigError(f"model.prompt_path: no file {path!r}{nearest(file.name, siblings)}")
    requests = [line for line in file.read_text(encoding="utf-8").splitlines() if IMAGE_PLACEHOLDER in line]
    if not requests:
        raise ConfigError(f"model.prompt_path: no line of {path} holds {IMAGE_PLACEHOLDER}")
    return requests
