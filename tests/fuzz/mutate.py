"""What may happen to a file on its way here: bytes, fields and structure are changed, by a seed."""

import io
import json
import os
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from minigpt4.weights.gguf_file import ARRAY, SCALARS, STRING, GgufFile
from tests.fuzz.cage import CANARY
from tests.fuzz.values import NAMES, TEXTS, Rng, change_tree, dumped, odd

PICKLES = (
    b"cos\nsystem\n(S'touch CANARY'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
YAML_TEXTS = (
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    "&a [*a, *a]",
    "{a: &a [x, x], b: &b [*a, *a, *a, *a], c: &c [*b, *b, *b, *b], d: [*c, *c, *c, *c]}",
    "${a}",
    "???",
    "!!binary x",
    "2001-01-01",
    "0o17",
    "'",
    "- - -",
)


def mutate(folder: Path, rng: Rng, outside: Path | None = None) -> str:
    """Change one to three files below a folder; in words, which and how.

    Args:
        folder: of the files.
        rng: what decides.
        outside: a file that a link may lead to; None where a file never becomes something else.
    """
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # Never what a link leads to: that is not ours.
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            break
        path = rng.choice(files)
        how = _mutate_file(path, rng, outside)
        said.append(f"{path.relative_to(folder)}: {how}")
    return "; ".join(said)


def _mutate_file(path: Path, rng: Rng, outside: Path | None) -> str:
    chance = rng.random()
    if chance < 0.04 and outside:
        return _replace(path, rng, outside)
    structure = STRUCTURES.get(path.suffix.lower())
    if structure and chance < 0.7:
        try:
            path.write_bytes(structure(path.read_bytes(), rng))
            return structure.__name__.strip("_")
        except Exception:
            pass  # the second change of a file that is no longer one
    data, how = change_bytes(path.read_bytes(), rng)
    path.write_bytes(data)
    return how


def _replace(path: Path, rng: Rng, outside: Path) -> str:
    """Something that is no file, or another one, in its place."""
    kind = rng.choice(("gone", "folder", "fifo", "endless", "loop", "outside", "unreadable"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("endless", "loop", "outside"):
        path.symlink_to({"endless": "/dev/zero", "loop": path.name, "outside": outside}[kind])
    elif kind == "unreadable":
        path.write_bytes(b"")
        path.chmod(0)
    return kind


def change_bytes(data: bytes, rng: Rng) -> tuple[bytes, str]:
    """Some bytes of a file, whatever it is."""
    out = bytearray(data)
    place = int(len(out) * rng.random() ** 3)  # heads are what readers believe
    kind = rng.choice(
        ("flip", "flip", "cut", "insert", "double", "zero", "integer", "integer", "become", "name")
    )
    if kind == "flip":
        for _ in range(rng.choice((1, 3, 30))):
            place = int(len(out) * rng.random() ** 3)
            out[place : place + 1] = bytes([rng.randrange(256)])
    elif kind == "cut":
        del out[place:]
    elif kind == "insert":
        out[place:place] = rng.randbytes(rng.choice((1, 8, 1000)))
    elif kind == "double":
        out += out[place:]
    elif kind == "zero":
        out[place : place + 64] = bytes(min(64, len(out) - place))
    elif kind == "integer":
        number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1))
        width, order = rng.choice(((4, "<I"), (8, "<Q"), (4, ">I"), (8, ">Q"), (2, "<H")))
        place -= place % 4
        out[place : place + width] = struct.pack(order, number % 256**width)
    elif kind == "name":
        name = rng.choice(NAMES).encode()
        out[place : place + len(name)] = name
    else:
        others = (b"", b"\0" * 1000, POINTER, b"<html>", b"{", b"[]", b"null", b"\x1f\x8b", *PICKLES)
        return rng.choice(others), "becomes another file"
    return bytes(out), f"{kind} at {place}"


def _json(data: bytes, rng: Rng) -> bytes:
    return dumped(change_tree(json.loads(data), rng))


def _jsonl(data: bytes, rng: Rng) -> bytes:
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    changed = _json(lines[place], rng)
    lines[place : place + rng.randrange(2)] = [changed] * rng.choice((1, 1, 1, 2))
    return rng.choice((b"\n", b"\n", b"\r\n", b"\n\n")).join(lines) + rng.choice((b"\n", b"", b"\n\n"))


def _yaml(data: bytes, rng: Rng) -> bytes:
    tree, raw = yaml.safe_load(data), rng.choice(YAML_TEXTS)
    if rng.random() < 0.3:
        lines = data.decode().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = lines[place].split(":")[0] + ": " + raw
        return "\n".join(lines).encode()
    return yaml.safe_dump(change_tree(tree, rng), allow_unicode=True).encode("utf-8", errors="surrogatepass")


def _text(data: bytes, rng: Rng) -> bytes:
    said = rng.choice((*TEXTS, *NAMES)).encode("utf-8", errors="surrogatepass")
    return rng.choice((said, data + said, said + data, data.decode(errors="replace").encode("utf-16")))


def _safetensors(data: bytes, rng: Rng) -> bytes:
    size = int.from_bytes(data[:8], "little")
    head = dumped(change_tree(json.loads(data[8 : 8 + size]), rng))
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


def _torch(data: bytes, rng: Rng) -> bytes:
    buffer = io.BytesIO()
    torch.save(change_tree(torch.load(io.BytesIO(data), weights_only=True), rng), buffer)
    return buffer.getvalue()


def _tar(data: bytes, rng: Rng) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar if info.isreg()]
    buffer, chosen = io.BytesIO(), rng.randrange(len(members))
    mode = rng.choice(("w", "w", "w", "w:gz", "w:xz", "w:bz2"))
    with tarfile.open(
        fileobj=buffer, mode=mode, format=rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    ) as tar:
        for number, (info, content) in enumerate(members):
            if number == chosen:
                content = _member(info, content, rng)
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    if rng.random() < 0.1:  # a size that is not there
        return _lying(buffer.getvalue(), rng)
    return buffer.getvalue()


def _member(info: tarfile.TarInfo, content: bytes, rng: Rng) -> bytes:
    kind = rng.choice(("content", "content", "content", "name", "type", "large", "pax"))
    structure = STRUCTURES.get(Path(info.name).suffix.lower())
    if kind == "content":
        return structure(content, rng) if structure and rng.random() < 0.7 else change_bytes(content, rng)[0]
    if kind == "name":
        info.name = rng.choice((*NAMES, "__key__.txt", "a.b.c.jpg", "./" + info.name, info.name + "\udcff"))[
            :900
        ]
    elif kind == "type":
        info.type = rng.choice(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S", b"Z")
        )
        info.linkname = rng.choice(NAMES[:8])
    elif kind == "large":
        return bytes(40_000_000)
    else:
        info.pax_headers = {
            rng.choice(("path", "size", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset")): "-1,9"
        }
    return content


def _lying(data: bytes, rng: Rng) -> bytes:
    """The first header says another size, and its checksum agrees."""
    head = bytearray(data[:512])
    head[124:136] = rng.choice((b"77777777777\0", b"-1         \0", b"\x80" + b"\xff" * 11, b"00000000000\0"))
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


def _zip(data: bytes, rng: Rng) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = rng.randrange(len(old.namelist()))
        for number, info in enumerate(old.infolist()):
            content = old.read(info)
            if number == chosen:
                kind = rng.choice(("name", "name", "type", "large", "method"))
                if kind == "name":
                    info.filename = rng.choice(("", "train2014/")) + rng.choice(NAMES)
                elif kind == "type":
                    info.create_system, info.external_attr = (
                        3,
                        rng.choice((0o120777, 0o010777, 0o020777)) << 16,
                    )
                elif kind == "large":
                    content, info.compress_type = bytes(50_000_000), zipfile.ZIP_DEFLATED
                else:
                    info.compress_type = rng.choice((zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
            new.writestr(info, content)
    return buffer.getvalue()


def _gguf(data: bytes, rng: Rng) -> bytes:
    """One value of the metadata, the vocabulary among them, is another, longer, shorter, or lost."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        read = GgufFile(file.name)
    fields = {key: (field.types, field.value()) for key, field in read.fields.items()}
    tensors = data[24 + len(_gguf_fields(fields)) : read._place]  # their names and places follow the metadata
    key, kind = rng.choice(list(fields)), rng.choice(("value", "value", "length", "text", "lost"))
    types, value = fields.pop(key)
    if kind == "text":
        types, value = [STRING], rng.choice((*NAMES, *TEXTS))
    elif not isinstance(value, list):
        value = odd(rng, value)
    elif kind == "length":
        value = rng.choice((value[: rng.randrange(len(value))], value * 2, []))
    else:
        place = rng.randrange(len(value))
        value[place] = odd(rng, value[place])
    if kind != "lost":
        fields[key] = types, value
    head = data[:16] + struct.pack("<Q", len(fields)) + _gguf_fields(fields) + tensors
    return head + bytes(-len(head) % 32) + data[-(-read._place // 32) * 32 :]


def _gguf_fields(fields: dict[str, tuple[list[int], Any]]) -> bytes:
    """Metadata as a GGUF file has it. Raises for values that have no place in their type."""
    out = b""
    for key, (types, value) in fields.items():
        out += _gguf_value(STRING, key) + struct.pack("<I", types[0])
        if types[0] == ARRAY:
            out += struct.pack("<IQ", types[1], len(value))
        out += b"".join(
            _gguf_value(types[-1], one) for one in (value if isinstance(value, list) else [value])
        )
    return out


def _gguf_value(kind: int, value: Any) -> bytes:
    if kind != STRING:
        return struct.pack(f"<{SCALARS[kind]}", value)
    text = value.encode("utf-8", errors="surrogatepass")
    return struct.pack("<Q", len(text)) + text


STRUCTURES: dict[str, Callable[[bytes, Rng], bytes]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".yaml": _yaml,
    ".txt": _text,
    ".jinja": _text,
    ".safetensors": _safetensors,
    ".pth": _torch,
    ".tar": _tar,
    ".zip": _zip,
    ".gguf": _gguf,
    ".srt": _text,
    ".vtt": _text,
}
