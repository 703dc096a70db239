"""Every kind of input from outside: how to write a valid tiny one, and how the project reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import data, downloads, foreign, requests, runs, videos, weights


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        write: puts a valid input into an empty folder.
        read: reads the folder as a command would; raises a UserError for unusable input.
        seconds: roughly how long reading takes.
        replaced: whether files may also be replaced by devices or links; not for files of a user's own run.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    seconds: float = 0.1
    replaced: bool = True


REFERRING = ("refcoco", "invrefcoco", "refvg")
OTHERS = ("ocrvqa", "gqa", "textcaps_caption", "flickr_ObjectToPhrase", "llava_conversation", "ok_vqa")

TARGETS: dict[str, Target] = {
    "shards": Target(data.write_shards, data.read_shards, 0.3),
    "manifest": Target(data.write_shards, data.read_manifest, 0.2),
    "jsonl": Target(data.write_jsonl, data.read_jsonl, 0.2),
    "foreign": Target(foreign.write_foreign, foreign.read_foreign, 0.3),
    "align": Target(data.write_align, data.read_align, 0.2),
    "refcoco": Target(data.write_published(*REFERRING), data.read_published(*REFERRING), 0.3),
    "published": Target(data.write_published(*OTHERS), data.read_published(*OTHERS), 1.0),
    "benchmarks": Target(data.write_benchmarks, data.read_benchmarks, 1.0),
    "entries": Target(data.write_stored_entries, data.read_stored_entries),
    "videos": Target(videos.write_videos, videos.read_videos, 0.3),
    "requests": Target(requests.write_request, requests.read_request, 0.2),
    "cache": Target(data.write_cache, data.read_cache, 0.3),
    "questions": Target(data.write_questions, data.read_questions, 0.3),
    "checkpoint": Target(weights.write_checkpoint, weights.read_checkpoint),
    "adapter": Target(weights.write_adapter_folder, weights.read_adapter_folder),
    "tensors": Target(weights.write_tensors, weights.read_tensor_files),
    "llama": Target(weights.model_folder("llama"), weights.read_model, 1.0),
    "chatml": Target(weights.model_folder("qwen2"), weights.read_model, 1.0),
    "model-shards": Target(weights.model_folder("gemma", max_shard_size="50KB"), weights.read_model, 1.0),
    "vision": Target(weights.write_vision, weights.read_vision, 0.5),
    "exported": Target(weights.write_description, weights.read_exported, 0.2),
    "gguf": Target(weights.write_gguf_file, weights.read_model, 1.0),
    "run": Target(runs.write_run, runs.read_run, 4.0, replaced=False),
    "log": Target(runs.write_log, runs.read_log, 0.5, replaced=False),
    "yaml": Target(runs.write_yaml, runs.read_yaml, 0.3),
    "prompts": Target(runs.write_prompts, runs.read_prompts, 0.5),
    "zip": Target(downloads.write_zip, downloads.read_zip),
    "captions": Target(downloads.write_list, downloads.read_captions),
    "pictures": Target(downloads.write_list, downloads.read_pictures),
    "answer": Target(downloads.write_answer, downloads.read_answer, 0.5, replaced=False),
}
