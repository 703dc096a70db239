"""Chat templates from model folders: what is read off them, and that no template holds up a start."""

from typing import Any

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.prompts import chat_template as reading
from minigpt4.prompts.chat_template import read_chat_template
from minigpt4.prompts.templates import CHATML, PromptTemplate
from tests.support.families import chatml_tokenizer

pytestmark = pytest.mark.integration

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA2_DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {% if loop.first %}"
    "<<SYS>>\nYou are "
    "helpful\n<</SYS>>\n\n{% endif %}{{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}"
    "{% endif %}"
    "{% endfor %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y %f') %}{%- endif %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
QWEN3 = (
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi_step_tool and message.role == 'user' %}{%- set ns.multi_step_tool = false %}"
    "{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- '<|im_start|>user\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set content = message.content %}"
    "{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
    "{%- endif %}"
    "{%- if loop.index0 > ns.last_query_index %}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + content }}"
    "{%- else %}{{- '<|im_start|>assistant\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{'<|system|>\n' + message['content'] + "
    "'<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEEPSEEK_R1 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_first=false, system_prompt='') %}{{ bos_token }}{{ ns.system_prompt }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|User|>' + message['content']}}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' and message['content'] is not none %}{{'<|Assistant|>' + "
    "message['content'] + '<|endoftext|>'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|Assistant|><think>\\n'}}{% endif %}"
)
# gpt-oss has macros that call themselves; SmolLM3 marks what is learned.
MACROS = (
    "{% macro shown(kind) %}{% if kind is mapping %}{% for key in kind %}{{ shown(kind[key]) }}{% endfor %}"
    "{% else %}{{ kind | tojson(indent=1) }}{% endif %}{% endmacro %}Types: {{ shown({'a': {'b': 1}}) }}"
    "{% for i in range(messages|length) %}{% set m = messages[i] %}<|start|>{{ m.role }}<|message|>"
    "{% generation %}{{ m.content }}{% endgeneration %}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|message|>{% endif %}"
)
IGNORES_THE_REPLY = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "special", "expected"),
    [
        (LLAMA2, (), ("[INST] ", " [/INST]", "</s>", "</s><s>")),
        (LLAMA2_DEFAULT_SYSTEM, (), ("[INST] ", " [/INST]", "</s>", "</s><s>")),
        (
            LLAMA3,
            ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
            (
                "<|start_header_id|>user<|end_header_id|>\n\n",
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                "<|eot_id|>",
                "<|eot_id|>",
            ),
        ),
        (
            LLAMA3,  # what its turns are written with is no token
            (),
            (
                "<|start_header_id|>user<|end_header_id|>\n\n",
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                "</s>",
                "<|eot_id|>",
            ),
        ),
        (
            GEMMA,
            ("<start_of_turn>", "<end_of_turn>"),
            (
                "<start_of_turn>user\n",
                "<end_of_turn>\n<start_of_turn>model\n",
                "<end_of_turn>",
                "<end_of_turn>\n",
            ),
        ),
        (QWEN3, (), (CHATML.user, CHATML.assistant, CHATML.end, CHATML.next_turn)),
        (
            PHI3,
            ("<|end|>",),
            ("<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>", "<|end|>\n"),
        ),
        (DEEPSEEK_R1, (), ("<|User|>", "<|Assistant|><think>\n", "<|endoftext|>", "<|endoftext|>")),
        (
            MACROS,
            (),
            (
                "<|start|>user<|message|>",
                "<|endoftext|><|start|>assistant<|message|>",
                "<|endoftext|>",
                "<|endoftext|>",
            ),
        ),
        (
            IGNORES_THE_REPLY,
            ("<end_of_turn>",),
            (
                "<start_of_turn>user\n",
                "<end_of_turn>\n<start_of_turn>assistant\n",
                "<end_of_turn>",
                "<end_of_turn>\n",
            ),
        ),
    ],
)
def test_the_turns_of_real_families(template, special, expected) -> None:
    """As transformers itself writes a dialogue, but for a system text in front and spaces around replies."""
    tokenizer = chatml_tokenizer(template)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [*special], "bos_token": "<s>", "eos_token": "</s>"}
    )
    read = read_chat_template(tokenizer)
    assert read == PromptTemplate(*expected)
    messages = [
        {"role": role, "content": text}
        for role, text in (("user", "q1"), ("assistant", "a1"), ("user", "q2"))
    ]
    written = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    ours = read.turn("q1") + "a1" + read.end + read.later_turn("q2")
    asked_first = written[written.index("q1") :].replace(" ", "").replace(" </s>", "</s>")
    ours = ours[ours.index("q1") :].replace(" ", "")
    if template not in (DEEPSEEK_R1, IGNORES_THE_REPLY):
        assert asked_first == ours.replace("</s><|eot_id|>", "<|eot_id|>")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ messages[-1].content }}",
        "{% for m in messages %}<u>{{ m.content | upper }}</u>{% endfor %}",
        "{% for m in messages %}<u>{{ m.content }}|{{ m.content }}</u>{% endfor %}",
        "{% for m in messages %}{% for part in m.content if part.type == 'text' %}{{ part.text }}"
        "{% endfor %}{% endfor %}",
        "{{ raise_exception('not for chat') }}",
        "{% for m in messages %}[{{ messages|length }}] {{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{% if loop.first %}[A] sys Q:{% elif m.role == 'user' %}[A] Q:{% endif %}"
        "{{ m.content }}<|im_end|>{% endfor %}",
        # Numbered turns; another mark for the reply that is wanted.
        "{% for m in messages %}{% if m.role == 'user' %}[Round {{ loop.index0 // 2 + 1 }}]\nQ: "
        "{{ m.content }}\n{% else %}A: {{ m.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}Answer:{% endif %}",
        "{% for m in messages %}{{ m.role }}\ud800{{ m.content }}{% endfor %}",
        "{% if %}",
        "",
    ],
)
def test_a_template_that_does_not_write_turns_is_refused(template) -> None:
    with pytest.raises(ConfigError, match=r"llm_backbone is auto, but .* please set model\.llm_backbone to"):
        read_chat_template(chatml_tokenizer(template))


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HOSTILE = {
    "loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "long range": "{% for i in range(10000000000) %}{% endfor %}",
    "power": "{% set x = 9 ** 999999999 %}",
    "long list": "{% set x = [0] * 10000000000 %}",
    "long text": "{% set x = 'x' * 10000000000 %}",
    "doubled": "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "written without end": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "padded": "{{ '%9999999999d' % 1 }}",
    "padded by a format": "{{ '{:>9999999999}'.format(1) }}",
    "centred": "{{ 'x' | center(9999999999) }}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "brackets": "{{ " + "(" * 50_000 + ")" * 50_000 + " }}",
    "blocks": "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    "replaced": "{% set n = namespace(x='x') %}{% for i in range(99) %}"
    "{% set n.x = n.x.replace('x', 'xxxxxxxxx') %}{% endfor %}",
    "regular text of a megabyte": "x" * 1_000_000,
    "python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "python by a namespace": "{% set n = namespace() %}{% set n.__class__ = 1 %}"
    "{{ cycler.__init__.__globals__.os }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_ended(name, monkeypatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 60)  # it is the process's own limit that is tested
    with pytest.raises(ConfigError, match="does not write turns one after the other"):
        read_chat_template(chatml_tokenizer(HOSTILE[name] + TURNS))


def test_a_process_that_waits_is_ended_as_well(monkeypatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.001)
    with pytest.raises(ConfigError, match=r"stopped after 0\.001 s"):
        read_chat_template(chatml_tokenizer(TURNS + "{# a template that was not read yet #}"))


def test_a_template_is_run_once(monkeypatch) -> None:
    template = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    first = read_chat_template(chatml_tokenizer(template))

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("it is known")

    monkeypatch.setattr(reading.subprocess, "run", run)
    assert read_chat_template(chatml_tokenizer(template)) == first == CHATML
