"""What a browser may request from the page's server, and which visitor owns an uploaded picture.

Gradio serves every file in its folder of uploads to anybody who knows the path, fetches URLs for visitors,
and has tools for developers. Here only requests of the page itself are answered, and a picture is served only
to the visitor who uploaded it, identified by a cookie.
"""

import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

COOKIE = "minigpt4_visitor"
API = "/gradio_api"
FILE = f"{API}/file="
UPLOAD = f"{API}/upload"
# The paths that the page uses; any other is a 404.
ANSWERED = re.compile(
    r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|login|logout|user|login_check"
    rf"|(assets|static|svelte)/.+)?|{API}/(startup-events|app_id|heartbeat/\w+|queue/(join|data)|cancel|reset"
    r"|upload|upload_progress|login_check|token|user|file=.+)/?"
)
# No font, script or picture is loaded from elsewhere, whatever a model or a library says.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
# Pictures whose owners are remembered; older ones are no longer served.
MOST_FILES = 10_000


class Uploads:
    """Which visitor uploaded which file."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, set[str]] = OrderedDict()
        self._public: set[str] = set()

    def publish(self, paths: Iterable[str]) -> None:
        """Let every visitor see these."""
        self._public.update(paths)

    def add(self, visitor: str, path: str) -> None:
        """Record that the visitor uploaded the file."""
        self._owners.setdefault(path, set()).add(visitor)
        self._owners.move_to_end(path)
        while len(self._owners) > MOST_FILES:
            self._owners.popitem(last=False)

    def may_see(self, visitor: str | None, path: str) -> bool:
        """Whether the file is public or the visitor's own."""
        return path in self._public or visitor in self._owners.get(path, ())


class Doorkeeper:
    """ASGI middleware that answers 404 to everything that the visitor may not see.

    Args:
        app: the application.
        uploads: which visitor uploaded which file.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: Uploads) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        # Shared links and proxies add a prefix.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        known = visitor_of(_header(scope, b"cookie"))
        if not self._answered(scope, path, known):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            return await send({"type": "http.response.body", "body": b"not found"})
        visitor = known or secrets.token_urlsafe(24)
        uploaded = bytearray()

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_headers(None if known else visitor)]
            elif path.rstrip("/") == UPLOAD:
                uploaded.extend(message.get("body", b""))
                if not message.get("more_body"):
                    self._note(visitor, bytes(uploaded))
            await send(message)

        await self.app(scope, receive, answer)

    def _answered(self, scope: Scope, path: str, visitor: str | None) -> bool:
        # Not unquoted again: the page has no path that is escaped twice.
        if ".." in path or not ANSWERED.fullmatch(path):
            return False
        return not path.startswith(FILE) or self.uploads.may_see(visitor, path.removeprefix(FILE))

    def _note(self, visitor: str, body: bytes) -> None:
        """Remember the owner of uploaded files before the response tells the visitor their paths."""
        try:
            paths = json.loads(body)
        except ValueError:
            return  # an error page
        for path in paths if isinstance(paths, list) else ():
            self.uploads.add(visitor, path)


def visitor_of(cookies: str) -> str | None:
    """The visitor that the header Cookie names."""
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    return unquote(found.value) or None if found else None


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _headers(new_visitor: str | None) -> list[tuple[bytes, bytes]]:
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
    }
    if new_visitor:
        headers["set-cookie"] = f"{COOKIE}={new_visitor}; Path=/; HttpOnly; SameSite=Lax"
    return [(key.encode(), value.encode()) for key, value in headers.items()]
