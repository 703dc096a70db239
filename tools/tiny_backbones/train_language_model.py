"""Trains a tiny language model that says what its context lists.

    python -m tools.tiny_backbones.train_language_model --family llama --out minigpt4/assets/tiny/llama
    python -m tools.tiny_backbones.train_language_model --family gemma --out minigpt4/assets/tiny/gemma

A sample is BOS, eight context tokens (one for each of `world.SLOTS`, in that order) and the
caption with its end symbol; or a conversation in the family's template around such a context. The
loss covers what the model says. Where MiniGPT-4 puts image tokens, the word embeddings of the
context are disturbed (`disturb`), so that what a linear layer gives for them is still understood.

Letters: B samples, T tokens, C contexts of all samples, S slots, D width, V words.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dataset.shapes import language, world
from tools.tiny_backbones.families import FAMILIES, Family
from tools.tiny_backbones.optimizer import MuonWithAdamW

_UNLABELLED = -100
_BARE, _WITHOUT_IMAGE = 0.3, 0.03  # shares of all samples; the rest are conversations of
_TURNS = (1, 1, 2, 3)  # so many turns about
_PICTURES = (0.5, 0.4, 0.1)  # one, two or three pictures
_PICTURE = "<ImageHere>"
_CALM = 0.5  # of all steps: until then the disturbance of the context grows


def _with_pictures(count: int, question: str) -> str:
    """A question as it is asked when pictures come with it."""
    return " ".join([f"<Img>{_PICTURE}</Img>"] * count + [question])


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass
class Sample:
    """Token ids, their labels, and the first place of each context."""

    ids: list[int]
    labels: list[int] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)

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
        sample.contexts.append(len(sample.ids))
        sample.add([self.word_ids[word] for word in world.attributes(scene)])

    def bare(self, scene: world.Scene) -> Sample:
        """The form of stage 1: context, caption, end."""
        sample = self.start()
        self.add_context(sample, scene)
        sample.add(self.encode(world.caption(scene) + self.family.end), said=True)
        return sample

    def add_prompt(self, sample: Sample, text: str, scenes: Iterable[world.Scene] = ()) -> None:
        """Appends what is read, with a context for each picture in it."""
        pieces = text.split(_PICTURE)
        sample.add(self.encode(pieces[0]))
        for piece, scene in zip(pieces[1:], scenes, strict=True):
            self.add_context(sample, scene)
            sample.add(self.encode(piece))

    def prompt(self, scenes: Sequence[world.Scene], question: str) -> Sample:
        """A first question that comes with pictures, up to where the answer begins."""
        sample = self.start()
        self.add_prompt(sample, self.family.first.format(_with_pictures(len(scenes), question)), scenes)
        return sample

    def conversation(self, rng: random.Random) -> Sample:
        """One to three questions about one to three pictures, each of which comes with a question.

        A program that tokenizes an answer together with what stands around it gets other tokens
        than one that tokenizes it by itself (LLaMA's dummy prefix): both are learned.
        """
        turns, joined = rng.choice(_TURNS), rng.random() < 0.3
        pictures = rng.choices((1, 2, 3), _PICTURES)[0]
        arrivals = sorted([0, *(rng.randrange(turns) for _ in range(pictures - 1))])
        sample, shown = self.start(), []
        text, unread = "", 0
        for number in range(turns):
            fresh = arrivals.count(number)
            shown += [language.random_scene(rng) for _ in range(fresh)]
            turn = language.ask_about(shown, fresh, rng)
            ask = self.family.later if number else self.family.first
            text += ask.format(_with_pictures(fresh, turn.question))
            unread += fresh
            answer = turn.answer + self.family.end
            if joined and number + 1 < turns:
                text += answer  # goes into the next piece, not learned here
                continue
            self.add_prompt(sample, text, shown[len(shown) - unread :])
            sample.add(self.encode(answer), said=True)
            text, unread = "", 0
        return sample

    def without_image(self, rng: random.Random) -> Sample:
        """A first turn without a picture."""
        turn = language.greet(rng)
        sample = self.start()
        sample.add(self.encode(self.family.first.format(turn.question)))
        sample.add(self.encode(turn.answer + self.family.end), said=True)
        return sample

    def sample(self, rng: random.Random) -> Sample:
        """One sample of the mixture."""
        kind = rng.random()
        if kind < _WITHOUT_IMAGE:
            return self.without_image(rng)
        if kind < _WITHOUT_IMAGE + _BARE:
            return self.bare(language.random_scene(rng))
        return self.conversation(rng)


def batches(writer: Writer, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of samples of like length.

    Yields:
        ids [B, T] and labels [B, T], padded on the right, and where the contexts of all samples are:
        their samples [C, 1] and places [C, S].
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
            starts = [(row, start) for row, s in enumerate(chunk) for start in s.contexts]
            rows, first = torch.tensor(starts, dtype=torch.long).view(-1, 2, 1).unbind(1)  # [C, 1]
            yield ids, labels, rows, first + torch.arange(len(world.SLOTS))


def disturb(words: Tensor, vocabulary: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """What a linear layer might give instead of these word embeddings [C, S, D].

    A quarter of the contexts stays clean. The others get, each at its own strength: a share of
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
    batch: Batch,
    vocabulary_ids: Tensor,
    strength: float,
    generator: torch.Generator,
) -> Tensor:
    """Cross entropy of what is said."""
    ids, labels, rows, places = batch
    embed = model.get_input_embeddings()
    embeds = embed(ids)  # [B, T, D]
    # The disturbance knows the size of the embeddings, but must not be fought by shrinking it.
    vocabulary = embed(vocabulary_ids).detach()
    context = disturb(embeds[rows, places], vocabulary, strength, generator)
    embeds = embeds.index_put((rows, places), context)
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
                max_new_tokens=32, do_sample=False, eos_token_id=end, pad_token_id=end
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
    asked = [writer.prompt([s], t.question) for s, t in zip(scenes, turns, strict=True)]
    pairs = [(scene, world.sample_scene("test", 0.3, rng)) for scene in scenes]
    two = [language.ask_among(pair, 2, rng) for pair in pairs]
    found = {}
    for name, prompts, right in (
        ("captions", bare, captions),
        ("answers", asked, [turn.answer for turn in turns]),
        (
            "answers about two",
            [writer.prompt(pair, turn.question) for pair, turn in zip(pairs, two, strict=True)],
            [turn.answer for turn in two],
        ),
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
        strength = 1.0 if args.resume else min(1.0, step / (_CALM * args.steps))
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
    parser.add_argument("--resume", action="store_true", help="train what is in --out further")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[args.family]
    if args.resume:
        tokenizer = AutoTokenizer.from_pretrained(args.out)
        model = AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    else:
        tokenizer = family.make_tokenizer(args.out)
        model = family.make_model(tokenizer)
    model.set_attn_implementation("eager")  # at this size, on a CPU, faster than the fused one
    writer = Writer(family, tokenizer)
    train(model, writer, args)
    model.bfloat16().save_pretrained(args.out)
    print(measure(model.float(), writer, 1000, seed=2))


if __name__ == "__main__":
    main()
