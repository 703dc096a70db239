"""Writes `.safetensors` files tensor by tensor: of what is only mapped into memory, nothing is kept there."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

# As the format names them (https://github.com/huggingface/safetensors).
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]
) -> None:
    """Write tensors as transformers expects them.

    Args:
        path: of the file, which must not exist.
        tensors: by name; each is converted and copied alone.
        dtypes: in which they are written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * dtypes[name].itemsize
        header[name] = {
            "dtype": DTYPES[dtypes[name]],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            values = tensor.detach().to("cpu", dtypes[name]).contiguous()
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)
