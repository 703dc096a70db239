"""GQA (Hudson and Manning 2019): questions about the parts of a scene and how they relate."""

from minigpt4.datasets.datasets.vqa_datasets import VQADataset


class GQADataset(VQADataset):
    """LAVIS's list: `{"image": "2405722.jpg", "question": "…", "question_id": "…", "answer": "…"}`."""
