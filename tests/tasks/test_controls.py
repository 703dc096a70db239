"""Pictures that do not belong to their answers."""

import torch

from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.tasks.controls import shuffle_images

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
