"""A-OKVQA (Schwenk et al. 2022): questions about COCO's pictures that need knowledge of the world."""

from minigpt4.datasets.datasets.coco_pictures import CocoPictures
from minigpt4.datasets.datasets.vqa_datasets import VQADataset


class AOKVQADataset(CocoPictures, VQADataset):
    """`{"image": "…", "question": "…", "question_id": "…", "direct_answers": ["…", …]}`."""

    REQUIRED_KEYS = ("image", "question", "direct_answers")
    ANSWER = "direct_answers"
