"""The address that a server listens on."""

import re
import socket

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.common.ports import listening

pytestmark = pytest.mark.unit


def refused(host: str, port: int) -> str:
    with pytest.raises(ConfigError) as error, listening(host, port):
        pass
    return str(error.value)


def test_address_that_cannot_be_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert re.match(rf"--port {port} on --host 127\.0\.0\.1: .*in use", refused("127.0.0.1", port))
    for host in ("127.0.0.1", "localhost"):
        with listening(host, port) as sock:
            assert sock.getsockname()[1] == port
    for number in (-1, 65536, 99999):
        assert f"--port is {number}, it must be from 0 to 65535" in refused("127.0.0.1", number)
    for host in ("no.such.host.invalid", "a..b", "x" * 80):
        assert refused(host, port).startswith(f"--host is {host!r}: ")
    assert refused("203.0.113.7", port).startswith(f"--port {port} on --host 203.0.113.7: ")


def test_port_0_takes_a_free_one() -> None:
    with listening("127.0.0.1", 0) as sock:
        assert sock.getsockname()[1] > 0


def test_address_whose_port_is_reserved(monkeypatch) -> None:
    def bind(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert refused("127.0.0.1", 80) == "--port 80 on --host 127.0.0.1: Permission denied"
