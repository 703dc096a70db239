"""Writes a `PromptTemplate` as a chat template of transformers; the inverse of `chat_template`."""

from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, IMAGE_TURN, PromptTemplate

# The token that transformers' processors put in the places of an image.
IMAGE_TOKEN = "<image>"

# Content is a text, or a list of texts and images; `_written` of `serving/messages.py` joins them alike.
_TEMPLATE = (
    "%(bos)s{%% set ns = namespace(first=true, text='') %%}"
    "{%% set asked = messages %%}"
    "{%% if messages[0]['role'] == 'system' %%}{%% set asked = messages[1:] %%}"
    "{%% set system = messages[0]['content'] %%}"
    "{{ system if system is string else system | map(attribute='text') | join(' ') }}%(after_system)s"
    "%(default_system)s{%% endif %%}"
    "{%% for message in asked %%}{%% set ns.text = '' %%}"
    "{%% if message['content'] is string %%}{%% set ns.text = message['content'] %%}"
    "{%% else %%}{%% for part in message['content'] %%}"
    "{%% if ns.text[-1:] not in ['', ' ', '\\n', '\\t'] %%}{%% set ns.text = ns.text + ' ' %%}{%% endif %%}"
    "{%% set ns.text = ns.text + (part['text'] if part['type'] == 'text' else %(image)s) %%}"
    "{%% endfor %%}{%% endif %%}"
    "{%% if message['role'] == 'assistant' %%}"
    "{%% generation %%}{{ ns.text }}%(end)s{%% endgeneration %%}"
    "{%% else %%}{%% if ns.first %%}%(user)s{%% else %%}%(later_user)s{%% endif %%}{{ ns.text }}"
    "{%% if add_generation_prompt or not loop.last %%}%(assistant)s{%% endif %%}"
    "{%% set ns.first = false %%}{%% endif %%}"
    "{%% endfor %%}"
)


def write_chat_template(template: PromptTemplate, *, bos: str, space: str) -> str:
    """A chat template in jinja that writes dialogues as `PromptEncoder` does.

    Args:
        template: how turns are written.
        bos: the token that begins every sequence, or "".
        space: " " for tokenizers that begin every text with a space (LLaMA's): it is put behind BOS and
            images, where this project's texts begin.
    """
    lead, _, trail = IMAGE_TURN.partition(IMAGE_PLACEHOLDER)
    default_system = ""
    if template.system:
        default_system = "{% else %}" + _printed(template.system + template.after_system)
    return _TEMPLATE % {
        "bos": _printed(bos + space if bos else ""),
        "after_system": _printed(template.after_system),
        "default_system": default_system,
        "image": _quoted(lead + IMAGE_TOKEN + space + trail),
        "user": _printed(template.user),
        "later_user": _printed(template.later_turn("\0").split("\0")[0]),
        "assistant": _printed(template.assistant),
        "end": _printed(template.end),
    }


def _printed(text: str) -> str:
    return "{{ " + _quoted(text) + " }}" if text else ""


def _quoted(text: str) -> str:
    """A string literal of jinja."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
