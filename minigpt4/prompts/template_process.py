"""The program that renders a model folder's chat template, which is untrusted.

It reads a request as JSON from stdin and writes the answer for `chat_template.render` to stdout. It is a
process, because nothing else stops a template that loops or computes huge values; jinja's sandbox keeps it
from accessing anything. It imports nothing of this project, so that it starts fast.
"""

import json
import sys
from contextlib import suppress
from typing import Any, ClassVar

CPU_SECONDS = 2
MEMORY = 2**30  # bytes
LONGEST_TEXT = 100_000


def main() -> None:
    """Render each dialogue; an error is part of the answer."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    _limit()
    try:
        answer = {"texts": _render(**request["arguments"])}
    except RecursionError:
        answer = {"error": "it is nested too deeply"}
    except MemoryError:
        answer = {"error": "it takes too much memory"}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(answer))


def _limit() -> None:
    with suppress(ImportError, ValueError, OSError):  # not all available on Windows and macOS
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _render(template: str, tokens: dict[str, Any], dialogues: list[dict[str, Any]]) -> list[str]:
    compiled = _environment().from_string(template)
    texts = []
    for dialogue in dialogues:
        text = ""
        for piece in compiled.generate(**tokens, **dialogue, tools=None, documents=None):
            text += piece
            if len(text) > LONGEST_TEXT:
                raise ValueError(
                    f"it writes more than {LONGEST_TEXT:,} characters for a dialogue of three words"
                )
        text.encode()  # raises for lone surrogates
        texts.append(text)
    return texts


def _environment() -> Any:
    """The environment of transformers (`transformers.utils.chat_template_utils`)."""
    from datetime import datetime

    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text; here it has no effect."""

        tags: ClassVar = {"generation"}

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    class SafeNamespace(Namespace):
        """Rejects names that would give access to Python internals."""

        def __init__(*args: Any, **names: Any) -> None:
            for name in names:
                SafeNamespace.check(name)
            Namespace.__init__(*args, **names)

        def __setitem__(self, name: str, value: Any) -> None:
            SafeNamespace.check(name)
            Namespace.__setitem__(self, name, value)

        @staticmethod
        def check(name: str) -> None:
            if name.startswith("_"):
                raise TemplateError(f"a namespace cannot hold {name}")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **settings: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **settings)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    started = datetime.now()  # the same for all dialogues
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": started.strftime,
        "namespace": SafeNamespace,
        "dict": lambda *args, **names: dict(*args, **names),
    }
    return environment


if __name__ == "__main__":
    main()
