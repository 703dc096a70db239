"""Binds a server's address early, before the model is loaded."""

import contextlib
import socket
import sys
from collections.abc import Iterator

from minigpt4.common.errors import ConfigError


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound to an address; port 0 picks a free port.

    Raises:
        ConfigError: if the port is invalid, in use or not permitted, or the host is not this machine.
    """
    if not 0 <= port < 65536:
        raise ConfigError(f"--port is {port}, it must be from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host is {host!r}: {error}") from error
    with sock:
        try:
            if sys.platform != "win32":  # there the port would be shared
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError as error:
            raise ConfigError(f"--port {port} on --host {host}: {error.strerror}") from error
        yield sock
