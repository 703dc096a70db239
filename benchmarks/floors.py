"""What a stage-1 step must compute at least: its matrix products, from the sizes alone, and their time.

A product of m x k with k x n is 2mkn FLOPs, and moves at least its two factors and its result, once each.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from benchmarks.random_model import Size
from minigpt4.common.device import has_fast_bf16

# Of a product, each time that it is measured.
RUNS = 5

QUERIES, QFORMER_WIDTH, QFORMER_LAYERS, QFORMER_MLP, HEAD_WIDTH = 32, 768, 12, 3072, 64


@dataclass(frozen=True)
class Products:
    """The same product, repeated.

    Attributes:
        part: part of the model.
        m, k, n: the sizes.
        times: how many, one after the other.
        batch: how many at once.
        dtype: type of the factors.
    """

    part: str
    m: int
    k: int
    n: int
    times: int = 1
    batch: int = 1
    dtype: torch.dtype = torch.bfloat16

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n * self.batch * self.times

    @property
    def bytes(self) -> int:
        numbers = self.m * self.k + self.k * self.n + self.m * self.n
        return self.dtype.itemsize * numbers * self.batch * self.times


def step_products(size: Size, images: int, tokens: int, targets: int) -> list[Products]:
    """All products of a step.

    Args:
        size: one of SIZES.
        images: a batch, one a caption.
        tokens: T, padding included.
        targets: of the batch.
    """
    return [
        *encoder_products(size, images),
        *(() if size.v2 else qformer_products(size, images)),
        *projection_products(size, images),
        *language_model_products(size, images, tokens),
        *(lora_products(size, images * tokens) if size.v2 else ()),
        *head_products(size, targets),
    ]


def attention(part: str, batch: int, queries: int, keys: int, width: int, times: int) -> Iterator[Products]:
    """The scores, and their products with the values."""
    yield Products(part, queries, width, keys, times, batch)
    yield Products(part, queries, keys, width, times, batch)


def encoder_products(size: Size, images: int) -> Iterator[Products]:
    """EVA's blocks (a class token precedes the patches) after the patch embedding."""
    s = size.vit_sizes
    width, depth, heads = s["embed_dim"], s["depth"], s["num_heads"]
    patches = (size.image_size // s["patch_size"]) ** 2
    rows, mlp = images * (patches + 1), int(width * s["mlp_ratio"])
    yield Products("encoder", images * patches, 3 * s["patch_size"] ** 2, width)
    yield Products("encoder", rows, width, 3 * width, depth)
    yield from attention("encoder", images * heads, patches + 1, patches + 1, width // heads, depth)
    yield Products("encoder", rows, width, width, depth)
    yield Products("encoder", rows, width, mlp, depth)
    yield Products("encoder", rows, mlp, width, depth)


def qformer_products(size: Size, images: int) -> Iterator[Products]:
    """BERT's layers over the queries; every second one also attends to the encoder's tokens."""
    s = size.vit_sizes
    seen = (224 // s["patch_size"]) ** 2 + 1
    rows, width, layers = images * QUERIES, QFORMER_WIDTH, QFORMER_LAYERS
    crossing, heads = layers // 2, images * width // HEAD_WIDTH
    yield Products("Q-Former", rows, width, width, 4 * layers + 2 * crossing)
    yield from attention("Q-Former", heads, QUERIES, QUERIES, HEAD_WIDTH, layers)
    yield Products("Q-Former", images * seen, s["embed_dim"], width, 2 * crossing)
    yield from attention("Q-Former", heads, QUERIES, seen, HEAD_WIDTH, crossing)
    yield Products("Q-Former", rows, width, QFORMER_MLP, layers)
    yield Products("Q-Former", rows, QFORMER_MLP, width, layers)


def projection_products(size: Size, images: int) -> Iterator[Products]:
    """In float32; its input is frozen, so its backward pass is the gradient of the weight alone."""
    tokens, width = size.image_shape
    rows, out = images * tokens, size.llm.hidden_size
    yield Products("projection", rows, width, out, dtype=torch.float32)
    yield Products("projection", out, rows, width, dtype=torch.float32)


def lora_products(size: Size, rows: int) -> Iterator[Products]:
    """Of the queries and values: two thin products forward; backward to the inputs, and to both factors."""
    c, rank = size.llm, size.lora_r
    width, layers = c.hidden_size, c.num_hidden_layers
    for out in (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim):
        yield Products("LoRA", rows, width, rank, layers)
        yield Products("LoRA", rows, rank, out, layers)
        yield Products("LoRA, back", rows, out, rank, layers)
        yield Products("LoRA, back", rows, rank, width, layers)
        yield Products("LoRA, back", out, rows, rank, layers)
        yield Products("LoRA, back", rank, rows, width, layers)


def language_model_products(size: Size, images: int, tokens: int) -> Iterator[Products]:
    """Forward, and backward to the inputs alone: the weights are frozen, none has a gradient."""
    c = size.llm
    rows, width, layers, mlp = images * tokens, c.hidden_size, c.num_hidden_layers, c.intermediate_size
    queries, values = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    for k, n, times in ((width, queries, 1), (width, values, 2), (queries, width, 1), (width, mlp, 2)):
        yield Products("language model", rows, k, n, times * layers)
        yield Products("language model, back", rows, n, k, times * layers)
    yield Products("language model", rows, mlp, width, layers)
    yield Products("language model, back", rows, width, mlp, layers)
    heads = images * c.num_attention_heads
    yield from attention("language model", heads, tokens, tokens, c.head_dim, layers)
    # Gradients of the scores and values, and of the queries and keys.
    yield from attention("language model, back", heads, tokens, tokens, c.head_dim, 2 * layers)


def head_products(size: Size, targets: int) -> Iterator[Products]:
    """At target positions only."""
    width, vocabulary = size.llm.hidden_size, size.llm.vocab_size
    yield Products("head", targets, width, vocabulary)
    yield Products("head, back", targets, vocabulary, width)


def by_part(products: list[Products], what: Callable[[Products], int]) -> dict[str, float]:
    """Part -> 10^9 FLOPs or bytes."""
    sums: dict[str, float] = {}
    for product in products:
        sums[product.part] = sums.get(product.part, 0) + what(product) / 1e9
    return sums


def seconds_at_ceiling(products: list[Products], alone: Mapping[Products, float]) -> float:
    """How long all of them take, one after the other.

    Args:
        products: of a step.
        alone: the seconds that each of them takes once.
    """
    return sum(product.times * alone[product] for product in products)


def seconds_of(product: Products, device: torch.device) -> float:
    """One product alone on this device: the fastest of some runs."""
    p = product
    dtype = p.dtype if has_fast_bf16(device) else torch.float32  # as a model computes there
    left = torch.randn(p.batch, p.m, p.k, device=device).to(dtype)
    right = torch.randn(p.batch, p.n, p.k, device=device).to(dtype)
    if p.batch == 1:
        return fastest(lambda: torch.nn.functional.linear(left[0], right[0]), device)
    return fastest(lambda: left @ right.mT, device)


def fastest(run: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of `run`, once it is warm."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(RUNS):
        wait()
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
