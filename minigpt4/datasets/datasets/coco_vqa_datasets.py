"""Questions about COCO's pictures, with the answers of ten people each, in the files of LAVIS."""

from minigpt4.datasets.datasets.coco_pictures import CocoPictures
from minigpt4.datasets.datasets.vqa_datasets import VQADataset


class COCOVQADataset(CocoPictures, VQADataset):
    """VQAv2 (Goyal et al. 2017) and OK-VQA (Marino et al. 2019).

    `{"image": "train2014/COCO_train2014_….jpg", "question": "…", "question_id": 1, "answer": ["…", …]}`
    """
