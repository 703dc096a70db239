"""What the picture grid of a report shows."""

from minigpt4.commands.evaluation_report import to_show
from minigpt4.tasks.records import Record


def test_grid_shows_different_pictures_first() -> None:
    asked = [("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 1.0), ("a", 0.0), ("c", 1.0), ("c", 0.0)]
    records = [
        Record(image_id=str(number), truth="x", cluster=cluster, scores={"accuracy": score})
        for number, (cluster, score) in enumerate(asked)
    ]
    assert [number for number, _ in to_show(records, True, 4)] == [0, 3, 5, 1]
    assert [number for number, _ in to_show(records, True, 2)] == [0, 3]
    assert [number for number, _ in to_show(records, False, 9)] == [2, 4, 6]
