"""The tensors of an exported model, part by part, and the files that hold them.

Each part has files of its own, so that a licence belongs to a file, and this package reads a part alone. An
index says for transformers which file holds which tensor.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from minigpt4.models.language_model import LanguageModel
from minigpt4.weights.safetensors_file import write_safetensors

Tensors = Mapping[str, torch.Tensor]

INDEX = "model.safetensors.index.json"
# The language model is split into files of so many bytes.
SHARD = 4 << 30


VISION, QFORMER, PROJECTION, LANGUAGE = "vision", "qformer", "projection", "language"


@dataclass(frozen=True)
class Part:
    """A part of the model.

    Attributes:
        name: the beginning of its files' names.
        tensors: by their names in the file.
        dtype: in which they are written; None: their own.
    """

    name: str
    tensors: Tensors
    dtype: torch.dtype | None = None

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """In which each tensor is written."""
        return {
            name: self.dtype if self.dtype and tensor.is_floating_point() else tensor.dtype
            for name, tensor in self.tensors.items()
        }

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(self.tensors[name].numel() * dtype.itemsize for name, dtype in self.dtypes.items())

    def shards(self) -> Iterator[list[str]]:
        """The names of the tensors of each file; only a language model has several."""
        names: list[str] = []
        size = 0
        for name, dtype in self.dtypes.items():
            more = self.tensors[name].numel() * dtype.itemsize
            if names and size + more > SHARD and self.name == LANGUAGE:
                yield names
                names, size = [], 0
            names.append(name)
            size += more
        yield names

    def write(self, folder: Path) -> dict[str, str]:
        """Write its files. Returns the file of each tensor."""
        shards, files = list(self.shards()), {}
        for number, names in enumerate(shards, 1):
            many = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
            file = f"{self.name}{many}.safetensors"
            write_safetensors(folder / file, {name: self.tensors[name] for name in names}, self.dtypes)
            files |= dict.fromkeys(names, file)
        return files


def write_parts(parts: list[Part], folder: Path) -> None:
    """Write all files, and their index."""
    files = {name: file for part in parts for name, file in part.write(folder).items()}
    index = {"metadata": {"total_size": sum(part.size for part in parts)}, "weight_map": files}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def language_tensors(language: LanguageModel, rows: int) -> dict[str, torch.Tensor]:
    """The tensors of a language model whose vocabulary grows to `rows`; a tied head is left out.

    The new rows are those of a token that the model never writes, so that it never writes theirs either.
    """
    model, tokenizer = language.model, language.tokenizer
    silent = next((i for i in (tokenizer.bos_token_id, tokenizer.unk_token_id) if isinstance(i, int)), 0)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    grown = {id(one) for table in tables if table is not None for one in table.parameters()}
    tensors = {}
    for name, tensor in (*model.named_parameters(), *_buffers(model)):
        if id(tensor) in grown and len(tensor) < rows:
            more = tensor[silent].expand(rows - len(tensor), *tensor.shape[1:])
            tensor = torch.cat([tensor.detach(), more])
        tensors[name] = tensor
    return tensors


def _buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Those that belong to a file of weights."""
    kept = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in kept)
