"""Pictures that do not belong to their answers."""

import torch

from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.tasks.controls import BACKWARDS, MIXED, controlled, shuffle_images

PIXELS = torch.arange(4).view(4, 1, 1, 1)


def test_shuffle_gives_each_answer_the_next_picture_of_another():
    dealt = shuffle_images(Batch.from_mapping({"image": PIXELS, "answer": ["a", "a", "b", "c"]}))
    assert dealt.answers == ["a", "a", "b", "c"]
    assert dealt.images.flatten().tolist() == [2, 2, 3, 0]


def test_shuffle_leaves_out_what_has_no_other_answer():
    same = shuffle_images(Batch.from_mapping({"image": PIXELS[:2], "answer": ["a", "a"]}))
    assert same.answers == [] and same.image_ids == [] and same.images is None


def test_shuffle_deals_cached_features_and_as_many_pictures_as_there_were():
    features = [torch.full((count, 1, 1), float(number)) for number, count in enumerate((1, 2, 1))]
    answers = [
        Dialogue.prompted("<ImageHere>" * len(one), text) for one, text in zip(features, "aab", strict=True)
    ]
    samples = [Sample(dialogue=a, features=f) for a, f in zip(answers, features, strict=True)]
    dealt = shuffle_images(Batch.of(samples))
    assert dealt.answers == ["a", "b"]
    assert dealt.images.flatten().tolist() == [2.0, 0.0]


def test_shuffle_leaves_out_text_alone():
    texts = [Sample(dialogue=Dialogue.of([("why", answer)])) for answer in "ab"]
    assert shuffle_images(Batch.of(texts)).answers == []


def test_frames_run_backwards_and_in_any_order():
    counts = (3, 1, 8)
    places = iter(range(12))
    samples = [
        Sample(
            dialogue=Dialogue.prompted("<ImageHere>" * count, "a"),
            features=torch.tensor([[[float(next(places))]] for _ in range(count)]),
            image_id=str(count),
        )
        for count in counts
    ]
    backwards = controlled(Batch.of(samples), BACKWARDS)
    assert backwards.image_ids == ["3", "8"]  # one picture has no order
    assert backwards.images.flatten().tolist() == [2, 1, 0, 11, 10, 9, 8, 7, 6, 5, 4]
    mixed = controlled(Batch.of(samples), MIXED).images.flatten().tolist()
    assert sorted(mixed[:3]) == [0, 1, 2] and sorted(mixed[3:]) == [*range(4, 12)] != mixed[3:]
    assert controlled(Batch.of(samples), MIXED).images.flatten().tolist() == mixed
