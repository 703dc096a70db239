"""Asks exported folders as somebody without this project would: a program that never imports `minigpt4`.

python -I tests/support/stock.py OUT FOLDER ... -- PICTURE ...
"""

import sys
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

QUESTION = "What is this?"


def main() -> None:
    out, *words = sys.argv[1:]
    folders, pictures = words[: words.index("--")], words[words.index("--") + 1 :]
    torch.save({folder: ask(folder, pictures) for folder in folders}, out)
    assert not [name for name in sys.modules if name.split(".")[0] == "minigpt4"]


def ask(folder: str, pictures: list[str], most: int = 24, piped: bool = True) -> dict[str, Any]:
    """Ids, pixels, logits and replies: of each picture alone, and of the first two together."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    shown = [*([one] for one in pictures), pictures[:2]]
    chats = [[{"role": "user", "content": content(names)}] for names in shown]
    answers = []
    for chat in chats:
        inputs = processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
            # Without the file's settings, those of the config count.
            ids = model.generate(**inputs, max_new_tokens=most, do_sample=False)
        reply = ids[0, inputs["input_ids"].shape[1] :]
        answers.append(
            {
                "ids": inputs["input_ids"][0],
                "pixels": inputs["pixel_values"],
                "logits": logits,
                "reply": processor.decode(reply, skip_special_tokens=True).strip(),
            }
        )
    pipe = pipeline("image-text-to-text", model=folder) if piped else None
    said = pipe(text=chats, return_full_text=False, max_new_tokens=most) if pipe else []
    return {
        "class": type(model).__name__,
        "answers": answers,
        "piped": [one[0]["generated_text"].strip() for one in said],
    }


def content(pictures: list[str]) -> list[dict[str, str]]:
    return [*({"type": "image", "path": one} for one in pictures), {"type": "text", "text": QUESTION}]


if __name__ == "__main__":
    main()
