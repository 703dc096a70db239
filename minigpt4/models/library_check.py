"""Checks, once, when a language model is loaded, that it gives the same logits for embeddings as for ids.

Shapes: T tokens, D width, V vocabulary.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from minigpt4.common.device import is_out_of_memory, summarized
from minigpt4.common.errors import ConfigError
from minigpt4.models.language_model import LanguageModel

log = logging.getLogger(__name__)

# Any model that knows English finds this easy. Random weights lose ln(vocabulary) per token.
SENTENCE = "The dog is running in the park, and the children are playing in the snow."
# A model with a loss above this fraction of ln(vocabulary) does not know English.
DEAD_FRACTION = 0.75
# Allowed distance from the library's logits, relative to their spread. In half precision and 8 bits, a batch
# and a single row differ by 1 to 2 %; a missing scale, mask or input by tens of percent.
EXACT, ROUNDED = 0.01, 0.1


def check_language_model(language: LanguageModel, source: str, *, english: bool = True) -> None:
    """Check a language model with one short sentence: four forward passes of at most two dozen tokens.

    Three things must agree with the library's logits for the sentence's ids: the logits used for the loss, of
    texts of two lengths in one batch; those of the first token generated from embeddings; and those of the
    second, generated with a cache.

    Args:
        language: just loaded.
        source: its name in messages.
        english: whether to warn if it does not know English better than random weights. Weights that were not
            loaded, a damaged file or an unsuitable precision look like this, and training on top of it stays
            at a loss of ln(vocabulary).

    Raises:
        ConfigError: if it cannot take embeddings, gives different logits for them than for ids, or gives
            logits that are not finite.
    """
    ids = sentence_ids(language)
    training = language.training
    language.eval()
    own = language.in_own_precision()
    with _one_line(language, source, "cannot be used here"), torch.no_grad(), own:
        expected = language.model(input_ids=ids[None], use_cache=False).logits[0].float()
        loss = sanity_loss(expected, ids)
        if not math.isfinite(loss):
            raise ConfigError(
                f"model.llama_model: {source} gives logits that are not finite: a plain English sentence "
                f"costs {loss} nats per token. Are the files complete, and is model.llm_precision one "
                "that the model survives?"
            )
        if english:
            _warn_if_dead(loss, source, len(expected[0]))
        try:
            _compare(language, ids, expected, source)
        except Exception:
            # Some families (Doge) make more of a mask than torch's kernel does without one.
            if not language.drops_masks:
                raise
            language.drops_masks = False
            _compare(language, ids, expected, source)
    language.train(training)


def check_gradient(language: LanguageModel) -> None:
    """Raise ConfigError if no gradient reaches a language model's input embeddings."""
    ids = sentence_ids(language)[None]
    with _one_line(language, language.name, "cannot be trained through"):
        embeds = language.embed(ids).detach().requires_grad_()
        logits = language.logits(embeds, torch.arange(ids.shape[1] - 1))
        loss = F.cross_entropy(logits, ids[0, 1:].to(logits.device))
        (gradient,) = torch.autograd.grad(loss, embeds)
        if not gradient.any():
            raise ValueError("the gradient is zero")


def sentence_ids(language: LanguageModel) -> torch.Tensor:
    """[T] ids of the sentence, after BOS."""
    bos = language.backbone.bos_id
    ids = [*([] if bos is None else [bos]), *language.tokenizer(SENTENCE, add_special_tokens=False).input_ids]
    room = len(ids) if language.positions is None else language.positions - 2  # for what is generated
    return torch.tensor(ids[:room], device=language.device)


def sanity_loss(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """The mean loss per token, in nats, of ids [T] under their logits [T, V]."""
    return F.cross_entropy(logits[:-1], ids[1:].to(logits.device)).item()


@contextmanager
def _one_line(language: LanguageModel, source: str, fault: str) -> Iterator[None]:
    """Turn any exception into a one-line error that names the model."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConfigError) or is_out_of_memory(error):
            raise
        model = f"model.llama_model: {source}, a {language.model.config.model_type},"
        raise ConfigError(f"{model} {fault} (docs/language_models.md): {summarized(error)}") from error


def _compare(language: LanguageModel, ids: torch.Tensor, expected: torch.Tensor, source: str) -> None:
    """Compare the logits for embeddings of a sentence [T] with the library's for its ids, [T, V]."""
    whole, half = len(ids), len(ids) // 2
    mask = torch.tensor([[1] * whole, [1] * half + [0] * (whole - half)], device=ids.device)
    index = mask.flatten().nonzero().flatten()
    embeds = language.embed(ids * mask)
    # Padded with an embedding of no id, like an image's: Gemma 4 looks ids up by their embeddings.
    embeds = torch.where(mask[..., None] > 0, embeds, embeds[0].mean(0))
    allowed = EXACT if language.model.dtype == torch.float32 else ROUNDED
    _agree(
        language.logits(embeds, index),
        torch.cat([expected, expected[:half]]),
        allowed,
        f"model.llama_model: {source} gives different logits for embeddings than for ids",
    )
    # Both rows are continued with the sentence, not with what the model would generate.
    lengths = (whole - 1, half)
    rows = [F.pad(embeds[0, :n], (0, 0, whole - 1 - n, 0)) for n in lengths]
    ends = torch.tensor([[0] * (whole - 1 - n) + [1] * n for n in lengths], device=ids.device)
    said = ids[list(lengths)]
    replies = language.generate(
        inputs_embeds=torch.stack(rows),
        attention_mask=ends,
        max_new_tokens=2,
        do_sample=False,
        eos_token_id=None,
        logits_processor=[lambda _, scores: F.one_hot(said.to(scores.device), scores.shape[-1]).log()],
        output_logits=True,
        return_dict_in_generate=True,
    )
    _agree(
        torch.cat([logits.float() for logits in replies.logits]),
        torch.cat([expected[[n - 1 for n in lengths]], expected[list(lengths)]]),
        allowed,
        f"model.llama_model: {source} generates different replies from embeddings than from ids, or in a "
        "batch than alone",
    )


def _agree(ours: torch.Tensor, expected: torch.Tensor, allowed: float, fault: str) -> None:
    """Raise ConfigError where rows [rows, V] are too far from the expected, on average.

    On average, because a mixture of experts may send one token another way for a rounding error.
    """
    possible = expected.isfinite().all(0)  # some heads give padding rows -inf
    ours, expected = ours.to(expected.device)[:, possible], expected[:, possible]
    spread = (expected - expected.mean(1, keepdim=True)).norm(dim=1).clamp(min=1e-30)
    far = ((ours - expected).norm(dim=1) / spread).mean().item()
    if not far <= allowed:
        raise ConfigError(f"{fault}: they differ by {far:.0%} (docs/language_models.md)")


def _warn_if_dead(loss: float, source: str, vocabulary: int) -> None:
    chance = math.log(vocabulary)
    if loss >= DEAD_FRACTION * chance:
        log.warning(
            "model.llama_model %s: these weights look dead: a plain English sentence costs %.2f nats per "
            "token (random weights: %.2f). Are the files whole, and is model.llm_precision one the model "
            "survives? model.llm_sanity_check=False switches this check off",
            source,
            loss,
            chance,
        )
