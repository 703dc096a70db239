"""The server's limits."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerSettings:
    """Name, key and limits of the server.

    Attributes:
        name: of the model.
        api_key: required of requests, or None.
        together: maximum number of replies in a batch.
        waiting: maximum number of queued requests.
        body: maximum size of a request in bytes.
        bodies: maximum total size of the requests being received.
        body_seconds: maximum time to receive a request.
        images: maximum number per request.
        videos: likewise.
        video_pixels: maximum of all frames of a video together, which all may have to be decoded.
        new_tokens: maximum length of a reply.
        image_urls: whether http(s) image URLs are fetched.
        connections: maximum number of open connections.
    """

    name: str
    api_key: str | None = field(default=None, repr=False)
    together: int = 16
    waiting: int = 128
    body: int = 32 * 2**20
    bodies: int = 512 * 2**20
    body_seconds: float = 30.0
    images: int = 16
    videos: int = 2
    video_pixels: int = 10**10  # of six minutes at 1280x720 and 30 frames a second
    new_tokens: int = 2048
    image_urls: bool = False
    connections: int = 1000
