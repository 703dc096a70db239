"""Any model of ours as a model of lmms-eval, which finds it by the entry point `lmms_eval.models`.

    python -m lmms_eval --model minigpt4 --model_args cfg_path=FILE,ckpt=FILE --batch_size 8 --tasks …

What `--options` takes elsewhere is `options=model.llm_precision=bf16 model.image_size=224` in `--model_args`.

lmms-eval needs an environment of its own: `make lmms-eval`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

from minigpt4.common.errors import ConfigError
from minigpt4.models.generation import GenerationSettings
from minigpt4.serving.loading import load
from minigpt4.serving.messages import Message

MANIFEST = ModelManifest("minigpt4", chat_class_path=f"{__name__}.LmmsEvalModel")
# Of what a task asks for; its other keys (`until`, `do_sample`) follow from these, or do not concern us.
TAKEN = ("max_new_tokens", "temperature", "top_p", "num_beams")


class LmmsEvalModel(lmms):
    """Pictures and texts; greedy unless the task says otherwise.

    Args:
        cfg_path: a YAML, or a folder of `minigpt4 export`.
        ckpt: in place of the YAML's.
        device: as for `minigpt4.load`.
        batch_size: requests side by side.
        options: as `--options` takes them, separated by spaces.
        _: what lmms-eval hands to every model.

    Raises:
        ConfigError: for a batch size that is no number.
    """

    is_simple = False

    def __init__(
        self,
        cfg_path: str,
        ckpt: str | None = None,
        device: str | None = None,
        batch_size: Any = 1,
        options: str = "",
        **_: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"--batch_size is {batch_size!r}: please give a whole number from 1 on")
        self.batch_size = int(batch_size)
        self.model = load(cfg_path, device, [*options.split(), *([f"model.ckpt={ckpt}"] if ckpt else [])])

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The reply to each request."""
        replies = []
        for start in range(0, len(requests), self.batch_size):
            dialogues, settings = [], []
            for request in requests[start : start + self.batch_size]:
                _, doc_to_messages, wanted, number, task, split = request.args
                said = doc_to_messages(self.task_dict[task][split][number])
                dialogues.append([self._message(one) for one in said])
                chosen = {key: wanted[key] for key in TAKEN if wanted.get(key) is not None}
                greedy = {"temperature": 0.0, "repetition_penalty": 1.0}
                settings.append(GenerationSettings(**{**greedy, **chosen}))
            replies += [reply.text for reply in self.model.replies(dialogues, settings)]
        return replies

    def _message(self, said: Mapping[str, Any]) -> Message:
        """A message of theirs; a picture is a PIL image, or a path."""
        parts: list[Any] = []
        for part in said["content"]:
            if part["type"] not in ("text", "image"):
                raise NotImplementedError(
                    f"lmms-eval: there is a part of type {part['type']}, only text and image are known"
                )
            parts.append(part["text"] if part["type"] == "text" else part["url"])
        return self.model.message(said["role"], parts)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("lmms-eval: tasks of the type loglikelihood are not supported")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("lmms-eval: tasks of several rounds are not supported")
