"""A sample is checked once, when it is made; a batch of what does not fit together is refused."""

import numpy as np
import pytest
import torch

from minigpt4.common.errors import DataError
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.sample import Batch, Sample

CAPTION = Dialogue.caption("a dog")
PIXELS = torch.zeros(3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"image": np.zeros((3, 4, 4))}, "image ndarray"),
        ({"image": torch.zeros(4, 4, 3, dtype=torch.uint8)}, "image [4, 4, 3]"),
        ({"image": torch.zeros(1, 4, 4)}, "image [1, 4, 4]"),
        ({"image": torch.zeros(3, 4, 4, dtype=torch.int64)}, "image int64"),
        ({"image": torch.zeros(0, 3, 4, 4)}, "image [0, 3, 4, 4]"),
        ({"image": torch.zeros(2, 3, 4, 4)}, "1 2"),
        ({}, "1 0"),
        ({"features": torch.zeros(8, 16, dtype=torch.int64)}, "features int64"),
        ({"image": PIXELS, "features": torch.zeros(8, 16)}, "image features both"),
    ],
)
def test_sample_names_what_does_not_fit(given: dict, facts: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        Sample(dialogue=CAPTION, **given)
    assert all(fact in str(error.value) for fact in facts.split(" "))


def test_sample_wants_a_dialogue() -> None:
    with pytest.raises(ValueError, match="str"):
        Sample(dialogue="a dog", image=PIXELS)  # type: ignore[arg-type]


def test_turn_has_a_place_for_an_image_only_where_the_user_speaks() -> None:
    assert Turn("user", "<Img><ImageHere></Img> what?").images == 1
    for role in ("assistant", "system"):
        assert Turn(role, "<Img><ImageHere></Img> what?").images == 0
    assert Dialogue.caption("a sign: <ImageHere>").images == 1


def test_dialogue_knows_its_roles() -> None:
    with pytest.raises(ValueError, match="bot"):
        Dialogue((Turn("bot", "x"),))  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [PIXELS.float(), torch.zeros(3, 5, 4, dtype=torch.uint8)])
def test_batch_refuses_images_that_are_not_alike(other: torch.Tensor) -> None:
    one, two = Sample(dialogue=CAPTION, image=PIXELS), Sample(dialogue=CAPTION, image=other)
    assert Batch.of([one, one]).images.shape == (2, 3, 4, 4)
    with pytest.raises(DataError, match=r"uint8 \[3, 4, 4\]"):
        Batch.of([one, two])
