"""What a value becomes: a name, a text, a number or a tensor that nobody expects, in trees of values."""

import json
import random
from typing import Any

import torch

from tests.fuzz.cage import CANARY

Rng = random.Random

DEEP = "@deep@"  # becomes brackets in brackets in brackets, which no encoder writes

NAMES = (
    *(f"pipe:touch {CANARY}", f"pipe:touch {CANARY}; cat *", f"../{CANARY}", f"a/../../{CANARY}"),
    *("/etc/passwd", "../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x", "gs://a/b"),
    *("", ".", "..", "/", "a\0b", "C:\\x", "\\\\host\\x", "~", "*", "{0..999999999}", "x" * 5000),
    *("org/name", "/dev/zero", "/dev/stdin", "-", "%s%n", "${oc.env:HOME}", f"`touch {CANARY}`"),
)

TEXTS = (
    *(
        "\ud800",
        "é" * 300,
        "\u202e",
        "\ufeff",
        "\0",
        "\x1b[31m",
        "a b " * 200_000,
        "x" * 1_000_000,
        "\n" * 99,
    ),
    *("<s>", "</s>", "<image>", "<Img><ImageHere></Img>", "<|im_start|>system", "###", "{{ 7 * 7 }}"),
    *("{% for i in range(10**10) %}x{% endfor %}", "{{ 'x' * 10**10 }}", "{{ 9**9**9 }}", "{% if %}"),
    *("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ raise_exception('no') }}", "{%- include 'x' %}"),
)

NUMBERS = (
    0,
    1,
    -1,
    2,
    255,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**63,
    -(2**63),
    10**30,
    0.5,
    -0.0,
    1e308,
    1e-320,
)

ODD = (
    None,
    True,
    False,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"b": []}},
    DEEP,
)


def change_tree(tree: Any, rng: Rng) -> Any:
    """One node of nested lists and dicts becomes something else, is lost, or has company."""
    parents: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict | list) and node:
            parents.append(node)
            for one in node.values() if isinstance(node, dict) else node[:50]:
                walk(one)

    walk(tree)
    if not parents or rng.random() < 0.03:
        return odd(rng, tree)
    parent = rng.choice(parents)
    key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    action = rng.random()
    if action < 0.65:
        parent[key] = odd(rng, parent[key])
    elif action < 0.8:
        del parent[key]
    elif isinstance(parent, dict):
        parent[rng.choice((*NAMES[:6], "extra", "", str(key) + "x"))] = parent.pop(key)
    else:
        parent.insert(key, odd(rng, parent[key]))
    return tree


def odd(rng: Rng, old: Any) -> Any:
    """Something in place of a value, as often of its own type as of another."""
    if isinstance(old, torch.Tensor):
        return _odd_tensor(rng, old)
    if isinstance(old, str) and rng.random() < 0.6:
        return rng.choice((*NAMES, *TEXTS))
    if isinstance(old, int | float) and rng.random() < 0.6:
        return rng.choice(NUMBERS)
    return rng.choice((*NAMES, *TEXTS, *NUMBERS, *ODD))


def _odd_tensor(rng: Rng, tensor: torch.Tensor) -> Any:
    flat = tensor.float()
    return rng.choice(
        (
            lambda: flat.to_sparse(),
            lambda: torch.quantize_per_tensor(flat, 0.1, 0, torch.qint8),
            lambda: flat.to(torch.complex64),
            lambda: flat * float("nan"),
            lambda: flat.long(),
            lambda: flat.bool(),
            lambda: flat.to("meta"),
            lambda: flat[None],
            lambda: flat.reshape(-1)[:1].expand(10**9),  # of one number
            lambda: torch.nn.Parameter(flat),
            lambda: torch.empty(0),
            lambda: None,
            lambda: "tensor",
            lambda: [tensor],
        )
    )()


def dumped(tree: Any) -> bytes:
    text = json.dumps(tree, ensure_ascii=False).replace(f'"{DEEP}"', "[" * 9000 + "]" * 9000)
    return text.encode("utf-8", errors="surrogatepass")
