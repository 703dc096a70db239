"""A server on 127.0.0.1 that sends whatever bytes it is told to, at whatever pace."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def sending(answer: Callable[[bytes], Iterable[bytes]], pause: float = 0) -> Iterator[str]:
    """Answer whoever comes.

    Args:
        answer: a request -> what is sent, piece by piece, until the client hangs up.
        pause: seconds after each piece.

    Yields:
        The address of a file there.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(client: socket.socket) -> None:
            client.settimeout(10)
            with client, suppress(OSError):  # it was given up
                for piece in answer(client.recv(4096)):
                    client.sendall(piece)
                    time.sleep(pause)

        def listen() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.tar"
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
