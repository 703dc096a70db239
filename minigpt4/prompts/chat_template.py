"""Reads a `PromptTemplate` from the chat template of a model folder."""

import json
import re
import subprocess
import sys
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from minigpt4.common.errors import ConfigError
from minigpt4.prompts import template_process
from minigpt4.prompts.templates import PromptTemplate

# Words that do not occur in any template.
ASKED, REPLIED, ASKED_AGAIN = "Xaskedx", "Xrepliedx", "Xagainx"
LONGEST_TEMPLATE = 500_000
TAG = re.compile(r"(<[^<>\s]+>)\s*")
THOUGHTS = re.compile("</?think")  # earlier replies may be written without theirs
# In case the process has no CPU limit (Windows), or sleeps.
SECONDS = 10


def read_chat_template(tokenizer: PreTrainedTokenizerBase) -> PromptTemplate:
    """How a chat template marks turns, found by rendering two short dialogues.

    A system text that the template adds is left out: training and inference must use the same prompt.

    Raises:
        ConfigError: if there is none, or it does not write turns one after the other.
    """
    hint = "please set model.llm_backbone to a family whose turns it was taught, or `plain` for none"
    place = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise ConfigError(f"model.llm_backbone is auto, but {place} has no chat template: {hint}")
    try:
        return _read(tokenizer)
    except ValueError as error:
        raise ConfigError(
            f"model.llm_backbone is auto, but the chat template of {place} does not write turns one after "
            f"the other ({error}): {hint}"
        ) from error


def _read(tokenizer: PreTrainedTokenizerBase) -> PromptTemplate:
    """Raises ValueError with the reason if the template is not supported."""
    bos = str(tokenizer.bos_token or "")
    tokens = tuple(sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()))
    once, twice = render(str(tokenizer.get_chat_template()), tokens)
    before, assistant = _around(once, ASKED)
    first, reply, between, last = _around(twice, ASKED, REPLIED, ASKED_AGAIN)
    if (first, last) != (before, assistant):
        raise ValueError("a turn is written in another way where others follow it")
    if reply.startswith(assistant) and reply.removeprefix(assistant).strip():
        assistant = reply  # it ignores add_generation_prompt, so the mark of the reply is missing
    elif not assistant.strip().startswith(THOUGHTS.split(reply)[0].strip()):
        raise ValueError(
            f"before a reply stands {reply[-60:]!r}, but {assistant[-60:]!r} where one is wanted"
        )
    end = _end_symbol(tokenizer, between)
    if between.lstrip().startswith(end):
        between = between.lstrip()
    before = before.removeprefix(bos)
    user = _user_mark(before, between.lstrip().removeprefix(end).lstrip().removeprefix(bos))
    # What ends a system text and a reply alike, and is no token, belongs to neither request.
    tag = TAG.match(user)
    if tag and assistant.lstrip().startswith(tag[1]) and not before.lstrip().startswith(tag[1]):
        user = user[tag.end() :]
    if not user.strip() and not assistant.strip():
        raise ValueError("it does not mark who speaks")
    return PromptTemplate(user, assistant, end=end, next_turn=between.removesuffix(user))


def _user_mark(before: str, later: str) -> str:
    """The mark before a request, from the texts before the first and before a later request.

    Before the first there may also be a system text, before or after the mark; before a later one, a
    separator of turns.
    """
    same = 0
    while same < min(len(before), len(later)) and before[-same - 1] == later[-same - 1]:
        same += 1
    mark, rest = before[len(before) - same :].lstrip(), later[: len(later) - same].strip()
    if not rest:
        return mark
    numbered = before[: len(before) - same][-1:].isalnum() and later[: len(later) - same][-1:].isalnum()
    if later.strip() in before:  # a system text after the mark
        return later.lstrip()
    if rest in before or numbered or not mark.strip():
        raise ValueError(
            f"before the first request stands {before[-60:]!r}, before a later one {later[-60:]!r}"
        )
    return mark


def _around(text: str, *words: str) -> list[str]:
    """The texts before, between and after words that must each occur once, in order."""
    parts = []
    for word in words:
        if text.count(word) != 1:
            raise ValueError(f"a message is written {text.count(word)} times")
        before, text = text.split(word)
        parts.append(before)
    return [*parts, text]


def _end_symbol(tokenizer: PreTrainedTokenizerBase, between: str) -> str:
    """The special token that closes a reply, or EOS for templates that write none there."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    special |= {*tokenizer.all_special_tokens}
    written = [token for token in special if between.lstrip().startswith(token)]
    if not written and tokenizer.eos_token is None:
        raise ConfigError("model.end_sym is missing: the chat template does not show what ends a reply")
    return max(written, key=len, default=str(tokenizer.eos_token))


@lru_cache(maxsize=32)
def render(template: str, tokens: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """Render one request, and a dialogue with a second request, with a generation prompt.

    Args:
        template: jinja, untrusted: it is rendered in a separate process with limits.
        tokens: names and texts of the special tokens.

    Raises:
        ValueError: if it cannot be rendered within the limits of time, memory and size.
    """
    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"it is {len(template):,} characters long")
    said = [("user", ASKED), ("assistant", REPLIED), ("user", ASKED_AGAIN)]
    messages = [{"role": role, "content": text} for role, text in said]
    dialogues = [{"messages": some, "add_generation_prompt": True} for some in (messages[:1], messages)]
    arguments = {"template": template, "tokens": dict(tokens), "dialogues": dialogues}
    try:
        done = subprocess.run(
            [sys.executable, template_process.__file__],
            input=json.dumps({"path": sys.path, "arguments": arguments}),
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        reason = (done.stderr.splitlines() or ["stopped: it takes too long"])[-1]
        answer = json.loads(done.stdout) if done.stdout else {"error": reason}
    except subprocess.TimeoutExpired:
        answer = {"error": f"stopped after {SECONDS} s"}
    if "error" in answer:
        raise ValueError(answer["error"])
    once, twice = answer["texts"]
    return once, twice
