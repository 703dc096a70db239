"""Tasks: what one training step and one evaluation mean."""

from minigpt4.common.registry import lazily, registry

TASKS = {
    "image_text_pretrain": "minigpt4.tasks.image_text_pretrain:ImageTextPretrainTask",
    "short_answer": "minigpt4.tasks.short_answer:ShortAnswerTask",
    "vqa": "minigpt4.tasks.vqa:VqaTask",
    "refer": "minigpt4.tasks.refer:ReferTask",
    "choose": "minigpt4.tasks.choose:ChooseTask",
    "choose_by_gain": "minigpt4.tasks.choose:ChooseByGainTask",
    "yes_no": "minigpt4.tasks.yes_no:YesNoTask",
    "caption": "minigpt4.tasks.caption:CaptionTask",
    "grounded_caption": "minigpt4.tasks.grounded_caption:GroundedCaptionTask",
}

registry.declare("task", TASKS)

__getattr__ = lazily(
    *TASKS.values(), "minigpt4.tasks.base_task:BaseTask", "minigpt4.tasks.base_task:setup_task"
)
