"""What a server allows."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerSettings:
    """What the server allows.

    Attributes:
        name: of the model.
        api_key: which requests must carry, or None.
        together: replies that are generated side by side at most.
        waiting: requests that may wait for a place; more are told to come again.
        body: bytes of a request.
        bodies: of all requests that are being read.
        body_seconds: for the whole of it to arrive.
        images: per request.
        new_tokens: the longest reply.
        image_urls: whether images are fetched from the web.
        connections: that are open at once.
    """

    name: str
    api_key: str | None = field(default=None, repr=False)
    together: int = 16
    waiting: int = 128
    body: int = 32 * 2**20
    bodies: int = 512 * 2**20
    body_seconds: float = 30.0
    images: int = 16
    new_tokens: int = 2048
    image_urls: bool = False
    connections: int = 1000
