"""Requests to stop: signals are remembered, and workers leave them to their parent."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest

from minigpt4.common import stop_request as stopping
from minigpt4.common.stop_request import StoppedWaiting, StopRequest, leave_signals_to_parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """Sets what StopRequest takes for the time."""
    now = [0.0]
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, seconds)


def test_stop_request_is_remembered_and_acknowledged(capfd) -> None:
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with StopRequest() as stop:
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        assert stop and stop.signal == signal.SIGTERM
    assert "SIGTERM: saving what is trained, then stopping; once more ends it now" in capfd.readouterr().err
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_stop_request_a_second_time_ends_at_once(clock) -> None:
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
        clock(1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_stop_request_twice_within_a_second_is_one(clock) -> None:
    """A cluster signals the launcher and its processes, and the launcher signals them too."""
    with StopRequest() as stop:
        for seconds in (0.0, 0.01, 0.9):
            clock(seconds)
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT


def test_stop_request_needs_no_reader_of_its_words(monkeypatch) -> None:
    def broken_pipe(*_: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(stopping.os, "write", broken_pipe)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop


def test_stop_request_leaves_ignored_signals_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop and signal.getsignal(signal.SIGTERM) == stop._remember
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_stop_request_in_another_thread_handles_no_signals() -> None:
    """Only a process's main thread may handle signals: in a notebook, a run may be in another."""
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with StopRequest() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def echo(messages: Connection) -> None:
    signal.alarm(0)  # pytest's time-out
    leave_signals_to_parent(0)
    while True:
        messages.send((messages.recv(), signal.getitimer(signal.ITIMER_REAL)[0]))


def test_leave_signals_to_parent_survives_signals_for_good() -> None:
    """A batch of answers may take the parent minutes: no alarm ends the worker meanwhile."""
    here, there = get_context("fork").Pipe()
    worker = get_context("fork").Process(target=echo, args=(there,), daemon=True)
    worker.start()
    for number in (0, signal.SIGINT, signal.SIGTERM):
        if number:
            os.kill(worker.pid, number)
        here.send(number)
        assert here.recv() == (number, 0)
    worker.kill()
    worker.join()


def numbers_and_a_signal(at: int) -> Iterator[int]:
    for number in range(5):
        if number == at:
            signal.raise_signal(signal.SIGTERM)
        yield number


def test_stop_request_interrupts_the_wait_for_an_item() -> None:
    with StopRequest() as stop:
        items = stop.interrupting(numbers_and_a_signal(2))
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(StoppedWaiting):
            next(items)
        assert stop.signal == signal.SIGTERM


def test_stop_request_interrupts_no_work_between_two_items() -> None:
    with StopRequest() as stop:
        items = stop.interrupting(iter(range(5)))
        assert next(items) == 0
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedWaiting):
            next(items)
    assert list(StopRequest().interrupting(iter(range(3)))) == [0, 1, 2]


def test_stop_request_ends_work_that_can_be_given_up() -> None:
    reached = []

    def work(stop: StopRequest) -> None:
        with stop.given_up():
            reached.extend(stop.interrupting(iter(range(3))))
            signal.raise_signal(signal.SIGTERM)
            reached.append(3)

    with StopRequest() as stop:
        for _ in range(2):
            with pytest.raises(StoppedWaiting):
                work(stop)
    assert reached == [0, 1, 2]
