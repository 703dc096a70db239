"""The control of an evaluation: pictures that do not belong to the answers."""

from minigpt4.prompts.sample import Batch


def shuffle_images(batch: Batch) -> Batch:
    """Give each answer the pictures, as many, of the next sample of the batch whose answer differs.

    Samples without pictures, and those for which there is no such sample, are left out.
    """
    answers, counts = batch.answers, batch.image_counts
    pairs = []
    for row, answer in enumerate(answers):
        others = ((row + step) % len(batch) for step in range(1, len(batch)))
        fitting = (o for o in others if answers[o] != answer and counts[o] == counts[row])
        other = next(fitting, None)
        if other is not None and counts[row]:
            pairs.append((row, other))
    return batch.rows([row for row, _ in pairs], images_from=[other for _, other in pairs])
