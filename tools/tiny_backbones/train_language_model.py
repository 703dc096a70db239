"""Trains a tiny language model that says what its context lists.

    python -m tools.tiny_backbones.train_language_model --family llama --out minigpt4/assets/tiny/llama
    python -m tools.tiny_backbones.train_language_model --family gemma --out minigpt4/assets/tiny/gemma

A sample is BOS, eight context tokens (one for each of `world.SLOTS`, in that order) and the
caption with its end symbol; or a conversation in the family's template around such a context. The
loss covers what the model says. Where MiniGPT-4 puts image tokens, the word embeddings of the
context are disturbed (`disturb`), so that what a linear layer gives for them is still understood.

Letters: B samples, T tokens, S slots, D width, V words.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from dataset.shapes import world
from tools.tiny_backbones import language
from tools.tiny_backbones.families import FAMILIES, Family
from tools.tiny_backbones.optimizer import MuonWithAdamW

_UNLABELLED = -100
_BARE, _WITHOUT_IMAGE = 0.3, 0.03  # shares of all samples; the rest are conversations of
_TURNS = (1, 1, 2, 3)  # so many turns
_CALM = 0.5  # of all steps: until then the disturbance of the context grows


@dataclass
class Sample:
    """Token ids, their labels, and where the context stands (its first place, or None)."""

    ids: list[int]
    labels: list[int] = field(default_factory=list)
    context: int | None = None

    def add(self, ids: list[int], said: bool = False) -> None:
        """Appends tokens; `said` ones are learned."""
        self.labels += [_UNLABELLED] * (len(self.ids) - len(self.labels))
        self.labels += ids if said else [_UNLABELLED] * len(ids)
        self.ids += ids


class Writer:
    """Turns scenes into samples of one family."""

    def __init__(self, family: Family, tokenizer: PreTrainedTokenizerBase) -> None:
        self.family = family
        self.tokenizer = tokenizer
        self.word_ids = {word: tokenizer.convert_tokens_to_ids(f"▁{word}") for word in language.CONTEXT_WORDS}
        split = [w for w, i in self.word_ids.items() if i == tokenizer.unk_token_id]
        if split:
            raise ValueError(f"The tokenizer splits {split}; a context needs one token a word.")

    def encode(self, text: str) -> list[int]:
        """Token ids of one piece of text."""
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def start(self) -> Sample:
        """A sample of BOS alone."""
        return Sample([self.tokenizer.bos_token_id])

    def add_context(self, sample: Sample, scene: world.Scene) -> None:
        """Appends one token for each slot."""
        sample.context = len(sample.ids)
        sample.add([self.word_ids[word] for word in world.attributes(scene)])

    def bare(self, scene: world.Scene) -> Sample:
        """The form of stage 1: context, caption, end."""
        sample = self.start()
        self.add_context(sample, scene)
        sample.add(self.encode(world.caption(scene) + self.family.end), said=True)
        return sample

    def prompt(self, scene: world.Scene, question: str) -> Sample:
        """A first question about a picture, up to where the answer begins."""
        sample = self.start()
        sample.add(self.encode(self.family.opening))
        self.add_context(sample, scene)
        sample.add(self.encode(self.family.question.format(question)))
        return sample

    def conversation(self, scene: world.Scene, rng: random.Random) -> Sample:
        """One to three questions about a picture.

        A program that tokenizes an answer together with what stands around it gets other tokens
        than one that tokenizes it by itself (LLaMA's dummy prefix): both are learned.
        """
        turns = [language.ask(scene, rng) for _ in range(rng.choice(_TURNS))]
        joined = rng.random() < 0.3
        sample = self.start()
        sample.add(self.encode(self.family.opening))
        self.add_context(sample, scene)
        before = ""
        for number, turn in enumerate(turns):
            ask = self.family.later if number else self.family.question
            text, answer = before + ask.format(turn.question), turn.answer + self.family.end
            if joined and number + 1 < len(turns):
                before = text + answer  # goes into the next piece, not learned here
                continue
            sample.add(self.encode(text))
            sample.add(self.encode(answer), said=True)
        return sample

    def without_image(self, rng: random.Random) -> Sample:
        """A first turn without a picture."""
        turn = language.greet(rng)
        sample = self.start()
        sample.add(self.encode(self.family.plain.format(turn.question)))
        sample.add(self.encode(turn.answer + self.family.end), said=True)
        return sample

    def sample(self, rng: random.Random) -> Sample:
        """One sample of the mixture."""
        kind = rng.random()
        if kind < _WITHOUT_IMAGE:
            return self.without_image(rng)
        scene = language.random_scene(rng)
        if kind < _WITHOUT_IMAGE + _BARE:
            return self.bare(scene)
        return self.conversation(scene, rng)


def batches(writer: Writer, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of samples of like length.

    Yields:
        ids [B, T] and labels [B, T], padded on the right, and the places of contexts [B, S]
        (0, which is BOS, where there is none).
    """
    rng = random.Random(seed)
    while True:
        pool = sorted((writer.sample(rng) for _ in range(size * 16)), key=lambda s: len(s.ids))
        chunks = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
            ids = pad([torch.tensor(s.ids) for s in chunk])
            labels = pad([torch.tensor(s.labels) for s in chunk], padding_value=_UNLABELLED)
            starts = torch.tensor([[s.context or 0] for s in chunk])  # [B, 1]
            yield ids, labels, torch.where(starts > 0, starts + torch.arange(len(world.SLOTS)), 0)


def disturb(words: Tensor, vocabulary: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """What a linear layer might give instead of these word embeddings [B, S, D].

    A quarter of the samples stays clean. The others get, each at its own strength: a share of
    another word, a common gain, a common offset, noise; and sometimes the count tells nothing.
    All but the last grow with `strength` (0 to 1).
    """
    batch, slots, width = words.shape
    rand = partial(torch.rand, generator=generator)
    randn = partial(torch.randn, generator=generator)
    norm = vocabulary.norm(dim=-1).mean()
    unit = norm / width**0.5

    other = torch.randint(len(vocabulary), (batch, slots), generator=generator)
    share = strength * 0.35 * rand(batch, slots, 1) * (rand(batch, slots, 1) < 0.4)
    found = words * (1 - share) + vocabulary[other] * share
    # The count can be told from the rest: without it now and then, the rest is listened to.
    found[:, 0] *= rand(batch, 1) > 0.15
    found = found * torch.exp(strength * 0.3 * randn(batch, 1, 1))
    unit = strength * unit
    found = found + randn(batch, 1, width) * unit * rand(batch, 1, 1) * 0.7
    found = found + randn(batch, slots, width) * unit * rand(batch, 1, 1) * 0.9
    return torch.where(rand(batch, 1, 1) < 0.25, words, found)


def loss_of(
    model: PreTrainedModel,
    batch: tuple[Tensor, Tensor, Tensor],
    vocabulary_ids: Tensor,
    strength: float,
    generator: torch.Generator,
) -> Tensor:
    """Cross entropy of what is said."""
    ids, labels, places = batch
    embed = model.get_input_embeddings()
    embeds = embed(ids)  # [B, T, D]
    # The disturbance knows the size of the embeddings, but must not be fought by shrinking it.
    vocabulary = embed(vocabulary_ids).detach()
    rows = torch.arange(len(ids))[:, None]
    context = disturb(embeds[rows, places], vocabulary, strength, generator)
    has_context = places[:, :1, None] > 0  # [B, 1, 1]
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[rows, places] = True
    mask = mask[..., None] & has_context  # [B, T, 1]
    embeds = torch.where(mask, torch.zeros_like(embeds).index_put((rows, places), context), embeds)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        targets = labels[:, 1:]
        said = targets != _UNLABELLED
        logits = model.lm_head(hidden[:, :-1][said])  # [labelled, V]
    return F.cross_entropy(logits.float(), targets[said])


@torch.no_grad()
def answer(model: PreTrainedModel, writer: Writer, samples: list[Sample], batch_size: int = 100) -> list[str]:
    """Greedy answers to prompts, without their end symbols; clean contexts."""
    end = writer.tokenizer.convert_tokens_to_ids(writer.family.end)
    texts: list[str] = []
    for start in range(0, len(samples), batch_size):
        prompts = [s.ids for s in samples[start : start + batch_size]]
        longest = max(map(len, prompts))
        ids = torch.tensor([[end] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        found = model.generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                max_new_tokens=24, do_sample=False, eos_token_id=end, pad_token_id=end
            ),
        )[:, longest:]
        texts += writer.tokenizer.batch_decode(found, skip_special_tokens=True)
    return [text.strip() for text in texts]


def measure(model: PreTrainedModel, writer: Writer, count: int, seed: int) -> dict[str, float]:
    """Share of exact captions and answers on test scenes, which the training text has not."""
    rng = random.Random(f"measure {seed}")
    model.eval()
    scenes = [world.sample_scene("test", 0.3, rng) for _ in range(count)]
    captions = [world.caption(scene) for scene in scenes]
    bare = []
    for scene in scenes:
        sample = writer.start()
        writer.add_context(sample, scene)
        bare.append(sample)
    turns = [language.ask(scene, rng) for scene in scenes]
    asked = [writer.prompt(s, t.question) for s, t in zip(scenes, turns, strict=True)]
    found = {}
    for name, prompts, right in (
        ("captions", bare, captions),
        ("answers", asked, [turn.answer for turn in turns]),
    ):
        said = answer(model, writer, prompts)
        found[name] = sum(a == b for a, b in zip(said, right, strict=True)) / count
        wrong = [f"{a!r} for {b!r}" for a, b in zip(said, right, strict=True) if a != b]
        if wrong:
            print(f"  {name}: e.g. {wrong[0]}")
    model.train()
    return found


def train(model: PreTrainedModel, writer: Writer, args: argparse.Namespace) -> None:
    """Trains, and measures now and then."""
    optimizer = MuonWithAdamW(model, args.learning_rate, args.steps)
    generator = torch.Generator().manual_seed(args.seed)
    vocabulary_ids = torch.tensor(list(writer.word_ids.values()))
    start, mean_loss = time.time(), 0.0
    stream = batches(writer, args.batch_size, args.seed)
    for step, batch in zip(range(1, args.steps + 1), stream, strict=False):
        strength = min(1.0, step / (_CALM * args.steps))
        loss = loss_of(model, batch, vocabulary_ids, strength, generator)
        optimizer.step(loss)
        mean_loss += (loss.item() - mean_loss) * 0.05
        if step % 500 == 0:
            found = measure(model, writer, 200, seed=1)
            print(f"step {step} {time.time() - start:.0f}s loss {mean_loss:.4f} {found}", flush=True)


def main() -> None:
    """Makes the tokenizer, trains, saves, measures what was saved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[args.family]
    tokenizer = family.make_tokenizer(args.out)
    model = family.make_model(tokenizer)
    model.set_attn_implementation("eager")  # at this size, on a CPU, faster than the fused one
    writer = Writer(family, tokenizer)
    train(model, writer, args)
    model.bfloat16().save_pretrained(args.out)
    print(measure(model.float(), writer, 1000, seed=2))


if __name__ == "__main__":
    main()
