"""Every family of causal language models that transformers knows: equal to the library, or refused."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from minigpt4.models.decoding import Row, decode
from minigpt4.models.generation import GenerationSettings
from minigpt4.models.key_values import KeyValues, keeps_tokens
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.recorded_step import RecordedStep
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch
from minigpt4.prompts.reply_end import ReplyReader
from tests.support import ROOT, fake_graph
from tests.support.causal_families import KINDS, Verdict, document, judge

# Of each kind of head, attention and state one; the others take a minute together.
OFTEN = (
    "falcon",
    "gemma2",
    "gemma3n_text",
    "gpt2",
    "granite",
    "cohere",
    "mixtral",
    "qwen3_next",
    "bamba",
    "bart",
)
DOCUMENT = Path("docs/language_models.md")
NEW_TOKENS = 6
VERDICTS: dict[str, Verdict] = {}


def image_embeds(width: int, scale: torch.Tensor) -> torch.Tensor:
    """Two images of four tokens, about as large as words."""
    return torch.randn(8, width, generator=torch.Generator().manual_seed(1)) * scale


def encode(language: LanguageModel, dialogues: list[Dialogue], **how: bool) -> TokenBatch:
    prompts = PromptEncoder(language.tokenizer, None, 4, language.backbone.template, 32, 100)
    return prompts.encode(dialogues, **how)


def join(language: LanguageModel, tokens: TokenBatch, images: torch.Tensor) -> torch.Tensor:
    embeds = language.embed(tokens.ids).detach()
    return embeds.flatten(0, 1).index_copy(0, tokens.image_index, images).view(embeds.shape)


def check_losses_and_gradients(language: LanguageModel) -> None:
    dialogues = [
        Dialogue.prompted("<Img><ImageHere></Img> what?", "a red dog"),
        Dialogue.prompted("<Img><ImageHere></Img> and", "two big cars"),
    ]
    tokens = encode(language, dialogues)
    images = image_embeds(language.width, language.embed(tokens.ids).std().detach()).requires_grad_()
    ours = language.token_losses(join(language, tokens, images), tokens)
    embeds = join(language, tokens, images)
    logits = language.model(inputs_embeds=embeds, attention_mask=tokens.attention_mask).logits
    rows = logits.flatten(0, 1)[tokens.target_index].float()
    theirs = F.cross_entropy(rows, tokens.target_ids, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(ours.mean(), images)
    (expected,) = torch.autograd.grad(theirs.mean(), images)
    assert (gradient - expected).norm() <= 1e-3 * expected.norm()


@torch.no_grad()
def check_replies(language: LanguageModel) -> None:
    """In every way in which replies are generated here, against whole forward passes of the library."""
    asks = ("<Img><ImageHere></Img> what is it that you see?", "<Img><ImageHere></Img> and")
    tokens = encode(language, [Dialogue((Turn("user", ask),)) for ask in asks], pad_left=True)
    embeds = join(language, tokens, image_embeds(language.width, language.embed(tokens.ids).std()))
    mask, how = (
        tokens.attention_mask,
        {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None},
    )
    prompts = [row[real.bool()][None] for row, real in zip(embeds, mask, strict=True)]
    expected = [greedy(language, prompt) for prompt in prompts]
    alone = [language.generate(inputs_embeds=prompt, **how).tolist()[0] for prompt in prompts]
    assert alone == expected
    assert language.generate(inputs_embeds=embeds, attention_mask=mask, **how).tolist() == expected
    if keeps_tokens(language):
        assert [by_steps(language, prompt) for prompt in prompts] == [[reply] for reply in expected]
        assert by_steps(language, embeds, mask) == expected
        assert by_steps(language, prompts[0], recorded=RecordedStep(language)) == expected[:1]


def greedy(language: LanguageModel, prompt: torch.Tensor) -> list[int]:
    ids: list[int] = []
    for _ in range(NEW_TOKENS):
        ids.append(int(language.model(inputs_embeds=prompt).logits[0, -1].argmax()))
        prompt = torch.cat([prompt, language.embed(torch.tensor([[ids[-1]]]))], dim=1)
    return ids


def by_steps(
    language: LanguageModel,
    embeds: torch.Tensor,
    mask: torch.Tensor | None = None,
    recorded: RecordedStep | None = None,
) -> list[list[int]]:
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS, temperature=0, repetition_penalty=1.0)
    rows = [Row(settings, ReplyReader(language.tokenizer, [], "")) for _ in embeds]
    for _ in decode(KeyValues(language), embeds, rows, mask, recorded):
        pass
    return [row.reader.ids for row in rows]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in OFTEN else pytest.mark.slow) for kind in KINDS]
)
def test_a_family_is_equal_to_the_library_or_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = VERDICTS[kind] = judge(kind)
    page = (ROOT / DOCUMENT).read_text()
    if f"transformers {transformers.__version__}," in page:  # the lists differ from version to version
        reason = (verdict.text and f"`{verdict.text}`") or verdict.refused or verdict.untried
        assert (f"| `{kind}` | {reason.replace('|', '/')} |" if reason else f"`{kind}`") in page
        assert (f"\n| `{kind}` |" not in page) == (verdict.language is not None)
    if verdict.language:
        fake_graph.use(monkeypatch)
        check_losses_and_gradients(verdict.language)
        check_replies(verdict.language)


@pytest.mark.slow
def test_the_page_of_language_models_is_what_the_families_say() -> None:
    """Together with the test of every family, whose verdicts it reads."""
    page = (ROOT / DOCUMENT).read_text()
    if f"transformers {transformers.__version__}," in page:
        assert page == document({kind: VERDICTS.get(kind) or judge(kind) for kind in KINDS})
