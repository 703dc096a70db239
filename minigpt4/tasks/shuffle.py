"""The control of an evaluation: pictures that do not belong to the answers."""

from typing import Any


def shuffle_images(samples: dict[str, Any]) -> dict[str, Any]:
    """Give each answer the pictures of the next sample of the batch whose answer differs.

    Samples for which there is none are left out.
    """
    answers = samples["answer"]
    count = len(answers)
    pairs = []
    for row, answer in enumerate(answers):
        others = ((row + step) % count for step in range(1, count))
        other = next((o for o in others if answers[o] != answer), None)
        if other is not None:
            pairs.append((row, other))
    dealt: dict[str, Any] = {
        key: [values[row] for row, _ in pairs] for key, values in samples.items() if isinstance(values, list)
    }
    images = "image_features" if "image_features" in samples else "image"
    dealt[images] = samples[images][[other for _, other in pairs]]
    return dealt
