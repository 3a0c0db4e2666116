# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptors that come are closed whatever becomes of their message, and none is mistaken for another's."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message

from offsited.edge.bus import BusError

from .peer import NO_REPLY, Peer, close, probe
from .service import Service, memfd

INVALID = "org.freedesktop.DBus.Error.InvalidArgs"


@pytest.fixture
def file() -> Iterator[int]:
    """A descriptor to send."""
    fd = memfd(b"content")
    yield fd
    os.close(fd)


def carriers(fd: int) -> list[Message]:
    """Calls that carry a descriptor, to every end that a call can come to."""
    fds = [fd]
    return [
        probe("Take", "h", 0, fds=fds),
        probe("Take", "h", 0, fds=fds, interface=None),
        probe("Take", "h", 7, fds=fds),
        probe("Take", "h", 0, fds=fds * 3),
        probe("Take", "s", "a", fds=fds),
        probe("Nothing", fds=fds),
        probe("Options", "a{sv}", {}, fds=fds * 16),
        probe("Nowhere", "h", 0, fds=fds),
        probe("Take", "h", 0, fds=fds, path="/nowhere"),
        probe("Take", "h", 0, fds=fds, interface="org.offsited.Test1.Nowhere"),
        probe("Ping", fds=fds, interface="org.freedesktop.DBus.Peer"),
        probe("Get", "h", 0, fds=fds, interface="org.freedesktop.DBus.Properties"),
        probe("GiveBack", "h", 0, fds=fds),
        probe("Give"),
    ]


def held(service: Service) -> int:
    """How many descriptors are open once the service has nothing left to do."""
    service.do(lambda: None)
    return len(os.listdir("/proc/self/fd"))


def test_1000_calls_leave_no_descriptor_behind(service: Service, peer: Peer, file: int) -> None:
    calls = carriers(file)
    before = held(service)
    for number in range(1000):
        close(peer.ask(calls[number % len(calls)]))
    assert held(service) == before


def test_calls_without_reply_leave_none_behind(service: Service, peer: Peer, file: int) -> None:
    calls = carriers(file)
    for call in calls:
        call.flags = NO_REPLY
    before = held(service)
    for number in range(200):
        peer.send(calls[number % len(calls)])
        if number % 20 == 0:
            peer.ask(probe("Nothing"))
    peer.ask(probe("Nothing"))
    assert held(service) == before


def test_signals_and_stray_answers_leave_none_behind(service: Service, peer: Peer, file: int) -> None:
    stray: dict[str, Any] = {"destination": service.bus.unique_name, "signature": "h", "body": [0], "unix_fds": [file]}
    before = held(service)
    for number in range(200):
        peer.send(Message(message_type=MessageType.SIGNAL, path="/a", interface="a.b", member="C", **stray))
        peer.send(Message(message_type=MessageType.METHOD_RETURN, reply_serial=number + 1, **stray))
        peer.send(Message(message_type=MessageType.ERROR, error_name="a.b", reply_serial=number + 1, **stray))
        peer.ask(probe("Nothing"))
    assert held(service) == before


def test_each_call_gets_its_own_descriptor(service: Service, peer: Peer) -> None:
    for first in range(0, 60, 20):
        expected = {}
        for number in range(first, first + 20):
            content = str(number).encode()
            fd = memfd(content)
            expected[peer.send(probe("Take", "h", 0, fds=[fd]))] = content
            os.close(fd)
            peer.send(probe("Echo", "s", "between"))
        answers = {answer.reply_serial: answer.body[0] for answer in (peer.answer() for _ in range(40))}
        assert {serial: answers[serial] for serial in expected} == expected


def test_a_descriptor_that_is_not_there_is_refused(service: Service, peer: Peer, file: int) -> None:
    assert peer.error(probe("Take", "h", 0))[0] == INVALID
    assert peer.error(probe("Take", "h", 1, fds=[file]))[0] == INVALID
    assert peer.error(probe("Take", "h", 0, fds=[file, file]))[0] == INVALID


def test_what_is_given_can_be_read(service: Service, peer: Peer, file: int) -> None:
    for call, content in ((probe("Give"), b"given"), (probe("GiveBack", "h", 0, fds=[file]), b"content")):
        answer = peer.ask(call)
        assert os.pread(answer.unix_fds[answer.body[0]], 100, 0) == content
        close(answer)


def serve_one(peer: Peer, service: Service, *answers: Message) -> Any:
    """Let the service call the peer, which answers with the messages given."""
    future = service.start(service.bus.call(peer.name, "/a", "a.b", "C", "h", 0, fds=[0], timeout=5))
    call = peer.call_to_me()
    close(call)
    for answer in answers:
        answer.reply_serial = call.serial
        answer.destination = call.sender
        peer.send(answer)
    return future.result(10)


def test_answers_to_our_calls_leave_none_behind(service: Service, peer: Peer, file: int) -> None:
    before = held(service)
    for _ in range(50):
        good = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="(hs)", body=[[1, "a"]], unix_fds=[file] * 3)
        ((descriptor, text),) = serve_one(peer, service, good)
        assert (os.pread(descriptor, 100, 0), text) == (b"content", "a")
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
        bad = Message(message_type=MessageType.ERROR, error_name="a.b", reply_serial=1, signature="h", body=[0], unix_fds=[file])
        with pytest.raises(BusError, match=r"a\.b"):
            serve_one(peer, service, bad)
    assert held(service) == before


def test_an_answer_that_comes_too_late_leaves_none_behind(service: Service, peer: Peer, file: int) -> None:
    before = held(service)
    future = service.start(service.bus.call(peer.name, "/a", "a.b", "C", timeout=0.05))
    call = peer.call_to_me()
    with pytest.raises(BusError, match="NoReply"):
        future.result(10)
    peer.send(Message.new_method_return(call, "h", [0], [file]))
    peer.ask(probe("Nothing"))
    assert held(service) == before


def test_signals_of_a_service_that_is_watched_leave_none_behind(service: Service, peer: Peer, file: int) -> None:
    heard: list[Any] = []
    service.run(service.bus.watch(sender=peer.name, interface="a.b", handler=heard.append))
    before = held(service)
    for _ in range(20):
        peer.send(
            Message(message_type=MessageType.SIGNAL, path="/a", interface="a.b", member="C", signature="s", body=["x"], unix_fds=[file])
        )
    peer.ask(probe("Nothing"))
    assert held(service) == before
    assert len(heard) == 20
