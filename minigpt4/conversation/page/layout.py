"""The page's components, and which events they trigger."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from minigpt4.conversation.page import sketch
from minigpt4.conversation.page.events import Events
from minigpt4.conversation.page.examples import Example
from minigpt4.conversation.page.labels import LABELS
from minigpt4.conversation.page.loader import Loader
from minigpt4.conversation.page.privacy import Uploads
from minigpt4.conversation.page.visitor import Visitor
from minigpt4.models.generation import GenerationSettings
from minigpt4.processors.pictures import IMAGE_SUFFIXES
from minigpt4.serving.videos import SUFFIXES

# Every hour, uploaded pictures that are a day old are deleted.
DELETE_CACHE = (60 * 60, 24 * 60 * 60)
# A dialogue is forgotten after this many seconds without a question.
FORGET_AFTER = 24 * 60 * 60
# What is typed is moved in the browser, at once: a keystroke between two requests would be lost.
SEND = "(box) => [box, {text: '', files: []}]"
# A question that got no reply goes back, before what has been typed since.
GIVE_BACK = """(unsent, box) => {
  const text = [unsent, box].map((one) => one?.text).filter(Boolean).join("\\n");
  const files = [unsent, box].flatMap((one) => one?.files ?? []);
  const given = unsent?.text || unsent?.files?.length;
  return [{text: "", files: []}, given ? {text, files} : {__type__: "update"}];
}"""
# A picture from the camera goes into the box as it was uploaded; Gradio would make another file of it.
ADD_PHOTO = """(photo, box) => [
  photo ? {text: box?.text ?? "", files: [...(box?.files ?? []), photo]} : {__type__: "update"}, null
]"""


def _t(label: str) -> Any:
    """A label; the browser gets it in all languages and shows its own."""
    return gr.I18n()(label)


def translations(language: str | None) -> gr.I18n:
    """For `launch`: the labels in each language, or the same ones in all."""
    chosen = {name: LABELS[language or name] for name in LABELS}
    return gr.I18n(en=chosen["en"], **dict.fromkeys(("zh", "zh-CN", "zh-TW"), chosen["zh"]))


def build_page(
    loader: Loader,
    uploads: Uploads,
    examples: Sequence[Example] = (),
    language: str | None = None,
    tasks: Sequence[str] = (),
) -> gr.Blocks:
    """The page, which `serving` launches.

    Args:
        loader: of the model.
        uploads: which visitor uploaded which picture.
        examples: offered in an empty dialogue.
        language: of the page; None: each visitor's own.
        tasks: MiniGPT-v2's, which get buttons.
    """
    pictures: list[Any] = [path for example in examples for path in example.pictures]
    gr.set_static_paths(pictures)
    uploads.publish(pictures)
    events = Events(loader, uploads, examples, language)
    with gr.Blocks(
        title="MiniGPT-4", analytics_enabled=False, fill_height=True, delete_cache=DELETE_CACHE
    ) as page:
        visitor = gr.State(Visitor(), time_to_live=FORGET_AFTER)
        with gr.Column(elem_id="page"):
            with gr.Row(elem_id="head"):
                status = gr.Markdown("", elem_id="status", container=False)
                new = gr.Button(_t("new_chat"), size="sm", elem_id="new-chat")
            dialogue = _dialogue(examples)
            choices = _tasks(tasks) if tasks else []
            box = _box()
            sent, unsent = (gr.MultimodalTextbox(visible="hidden") for _ in range(2))
            with gr.Row(elem_id="extras"):
                with gr.Accordion(_t("camera"), open=False, elem_id="camera"):
                    camera = gr.Image(sources=["webcam"], type="filepath", show_label=False, height=240)
                with gr.Accordion(_t("settings"), open=False, elem_id="settings"):
                    settings = _settings()

        # Nothing may cover the dialogue, neither progress nor errors.
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "concurrency_limit": None,
        }
        outputs = [visitor, dialogue, box, status, unsent]
        growing: dict[str, Any] = {"outputs": outputs, "trigger_mode": "multiple", **quiet}
        page.load(events.load, [visitor], outputs, **quiet)
        asked = box.submit(None, [box], [sent, box], js=SEND, trigger_mode="multiple", **quiet)
        ask = events.ask_task if choices else events.ask
        replied = asked.then(ask, [sent, visitor, *choices, *settings], **growing)
        replied.then(None, [unsent, box], [unsent, box], js=GIVE_BACK, **quiet)
        for task in choices[:1]:
            task.change(events.choose_task, [task], [box], js=sketch.CHOOSE, **quiet)
        dialogue.example_select(events.ask_example, [visitor, *settings], **growing)
        dialogue.option_select(events.ask_further, [visitor, *settings], **growing)
        dialogue.retry(events.retry, [visitor, *settings], **growing)
        dialogue.edit(events.edit, [visitor, *settings], **growing)
        dialogue.undo(events.undo, [box, visitor], outputs, **quiet)
        box.stop(events.stop, [visitor], **quiet)
        new.click(events.clear, [visitor], outputs, **quiet)
        camera.input(None, [camera, box], [box, camera], js=ADD_PHOTO, **quiet)
    return page


def _dialogue(examples: Sequence[Example]) -> gr.Chatbot:
    cards: list[Any] = [
        {"text": one.questions[0], "files": list(one.pictures), "display_text": one.questions[0]}
        for one in examples
    ]
    # Not Gradio's Markdown, which passes HTML on; and no button that shares with a third party.
    return gr.Chatbot(
        label=_t("dialogue"),
        show_label=False,
        height="100%",
        placeholder=_t("welcome"),
        examples=cards or None,
        render_markdown=False,
        latex_delimiters=[],
        editable="user",
        buttons=["copy"],
        layout="bubble",
        allow_file_downloads=False,
        elem_id="dialogue",
    )


def _tasks(names: Sequence[str]) -> list[Any]:
    """The chosen task, and the box that is sketched for it."""
    task = gr.Radio(
        [(_t(f"task_{name}"), name) for name in names],
        value=names[0],
        label=_t("task"),
        show_label=False,
        container=False,
        elem_id="tasks",
    )
    with gr.Column(elem_id="sketch"):
        gr.Markdown(_t("sketch"), container=False)
        gr.HTML(sketch.SHEET)
    return [task, gr.Textbox(visible="hidden", elem_id="sketched")]


def _box() -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(
        label=_t("ask"),
        show_label=False,
        placeholder=_t("ask"),
        file_types=[f".{suffix}" for suffix in (*IMAGE_SUFFIXES, *SUFFIXES)],
        file_count="multiple",
        max_plain_text_length=100_000,  # longer pastes would become a file
        autofocus=True,
        elem_id="box",
    )


def _settings() -> list[gr.Slider]:
    usual = GenerationSettings()
    bounds = {
        "temperature": (0, 2, 0.1),
        "top_p": (0, 1, 0.05),
        "max_new_tokens": (1, 2048, 1),
        "num_beams": (1, 5, 1),
    }
    return [
        gr.Slider(
            low,
            high,
            value=getattr(usual, name),
            step=step,
            label=_t(name),
            info=_t(f"{name}_info"),
            elem_id=name.replace("_", "-"),
        )
        for name, (low, high, step) in bounds.items()
    ]
