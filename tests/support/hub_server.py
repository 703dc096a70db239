"""Servers on 127.0.0.1 for the tests: plain files with all the faults of the net, and a small model hub."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Seen:
    """One request as the server saw it, and how many bytes of content went out."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0


@dataclass
class Served:
    """A file and how it is served.

    Attributes:
        cuts: after so many bytes of each answer's content the connection is closed; then no more cuts.
        ranges: whether the Range header is obeyed.
        checks_if_range: whether If-Range is obeyed as well.
        sized: whether the answer says how long it is.
    """

    data: bytes
    etag: str | None = '"1"'
    cuts: Iterator[int] = field(default_factory=lambda: iter(()))
    ranges: bool = True
    checks_if_range: bool = True
    sized: bool = True
    headers: dict[str, str] = field(default_factory=dict)

    def answer(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        out = {"Content-Type": "application/octet-stream"} | self.headers
        out |= {"ETag": self.etag} if self.etag else {}
        wanted, condition = headers.get("range"), headers.get("if-range")
        version = self.etag or self.headers.get("Last-Modified")
        fits = condition in (None, version) or not self.checks_if_range
        if not (wanted and self.ranges and fits):
            return 200, out | ({"Content-Length": str(len(self.data))} if self.sized else {}), self.data
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.data):
            return 416, out | {"Content-Range": f"bytes */{len(self.data)}", "Content-Length": "0"}, b""
        rest = self.data[start:]
        span = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        return 206, out | {"Content-Range": span, "Content-Length": str(len(rest))}, rest


class FileServer:
    """Serves `files`; instead of a file, a number is the status to answer with, a text where to look instead.

    A context manager: it answers between entry and exit.
    """

    def __init__(self) -> None:
        self.files: dict[str, Served | int | str] = {}
        self.seen: list[Seen] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that hangs up is nothing to tell of
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, path: str, data: bytes, **how: Any) -> tuple[str, Served]:
        """Put a file up and return its address."""
        self.files[path] = Served(data, **how)
        return self.url + path, self.files[path]

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes, Served | None]:
        file = self.files.get(unquote(urlsplit(path).path), 404)
        if isinstance(file, str):
            return 302, {"Location": file, "Content-Length": "0"}, b"", None
        if isinstance(file, int):
            return file, {"Content-Length": "0"}, b"", None
        return *file.answer(headers), file

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {key.lower(): value for key, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers)
                owner.seen.append(seen)
                status, out, body, file = owner.answer(self.path, headers)
                self.send_response(status)
                for key, value in out.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    body = body[: next(file.cuts, None)] if file else body
                    seen.sent = len(body)  # before the client has it and looks here
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class HubServer(FileServer):
    """Model repositories, as much of the hub's HTTP API as `huggingface_hub` uses to fetch them.

    Attributes:
        repos: `org/name` -> path inside -> bytes.
        gated: repositories whose files only the holders of `allowed` may have.
        private: repositories that only they can see at all.
        broken: files in repositories of which never more than ten bytes arrive.
        allowed, known: tokens; what is neither is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.broken: set[str] = set()
        self.allowed: set[str] = set()
        self.known: set[str] = set()

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes, Served | None]:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        url = urlsplit(path)
        if url.path in self.files:
            return super().answer(path, headers)
        parts = url.path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        if token and token not in self.allowed | self.known:
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        if repo not in self.repos or (repo in self.private and token not in self.allowed):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if is_api:
            listing = (
                self._tree(repo)
                if parts[4:5] == ["tree"]
                else self._info(repo, "blobs" in parse_qs(url.query))
            )
            body = json.dumps(listing).encode()
            return 200, {"Content-Type": "application/json", "Content-Length": str(len(body))}, body, None
        if repo in self.gated and token not in self.allowed:
            message = f"Access to model {repo} is restricted and you are not in the authorized list."
            return self._refuse(403 if token else 401, "GatedRepo", message)
        name = "/".join(parts[4:])
        if name not in self.repos[repo]:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data = self.repos[repo][name]
        cuts = repeat(10) if name in self.broken else iter(())
        file = Served(
            data,
            cuts=cuts,
            etag=f'"{hashlib.sha1(data).hexdigest()}"',
            headers={"X-Repo-Commit": self.commit(repo)},
        )
        return *file.answer(headers), file

    def commit(self, repo: str) -> str:
        """A name for what the repository holds now."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()

    @staticmethod
    def _refuse(status: int, code: str | None, message: str) -> tuple[int, dict[str, str], bytes, None]:
        headers = {"X-Error-Message": message, "Content-Length": "0"} | (
            {"X-Error-Code": code} if code else {}
        )
        return status, headers, b"", None

    def _info(self, repo: str, with_sizes: bool) -> dict[str, Any]:
        siblings = [
            {"rfilename": name} | ({"size": len(data), "blobId": "0" * 40} if with_sizes else {})
            for name, data in self.repos[repo].items()
        ]
        return {"id": repo, "modelId": repo, "sha": self.commit(repo), "private": False, "siblings": siblings}

    def _tree(self, repo: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.repos[repo].items()
        ]
