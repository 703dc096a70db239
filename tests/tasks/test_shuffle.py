"""Pictures that do not belong to their answers."""

import torch

from minigpt4.tasks.shuffle import shuffle_images


def test_shuffle_gives_each_answer_the_next_picture_of_another():
    samples = {"image": torch.arange(4), "answer": ["a", "a", "b", "c"], "image_id": list("wxyz")}
    dealt = shuffle_images(samples)
    assert dealt["answer"] == ["a", "a", "b", "c"]
    assert dealt["image"].tolist() == [2, 2, 3, 0]


def test_shuffle_leaves_out_what_has_no_other_answer():
    same = shuffle_images({"image": torch.arange(2), "answer": ["a", "a"], "image_id": ["v", "w"]})
    assert same["answer"] == [] and same["image_id"] == []
