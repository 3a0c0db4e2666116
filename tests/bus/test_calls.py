# SPDX-License-Identifier: GPL-3.0-or-later
"""What a caller gets back."""

import asyncio
import logging

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from .conftest import Daemon
from .peer import INTERACTIVE, NO_REPLY, Peer, probe
from .service import PATH, PROBE, Service

ERROR = "org.freedesktop.DBus.Error."


def test_a_call_is_answered(service: Service, peer: Peer) -> None:
    assert peer.ask(probe("Echo", "s", "héllo")).body == ["héllo"]


def test_the_handler_knows_who_calls(service: Service, peer: Peer) -> None:
    assert peer.ask(probe("Who")).body == [peer.name, False]
    assert peer.ask(probe("Who", flags=INTERACTIVE)).body == [peer.name, True]


def test_options_arrive_as_plain_values(service: Service, peer: Peer) -> None:
    options = {"text": Variant("s", "a"), "deep": Variant("v", Variant("a{s(iv)}", {"k": [1, Variant("ay", b"x")]}))}
    assert peer.ask(probe("Options", "a{sv}", options)).body == [repr({"text": "a", "deep": {"k": (1, b"x")}})]


def test_the_interface_may_be_left_out(service: Service, peer: Peer) -> None:
    assert peer.ask(probe("Echo", "s", "a", interface=None)).body == ["a"]
    assert peer.ask(probe("Only", interface=None)).body == []
    assert "<node>" in peer.ask(probe("Introspect", interface=None)).body[0]
    assert peer.error(probe("Nowhere", interface=None))[0] == ERROR + "UnknownMethod"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (probe("Nothing", path="/org/offsited/Offsite1/nowhere"), "UnknownObject"),
        (probe("Nothing", path="/org/offsited"), "UnknownInterface"),
        (probe("Nothing", interface="org.offsited.Test1.Nowhere"), "UnknownInterface"),
        (probe("Nowhere"), "UnknownMethod"),
        (probe("Only"), "UnknownMethod"),
        (probe("Echo"), "InvalidArgs"),
        (probe("Echo", "ss", "a", "b"), "InvalidArgs"),
        (probe("Echo", "o", "/a"), "InvalidArgs"),
        (probe("Nothing", "s", "a"), "InvalidArgs"),
        (probe("Get", "s", PROBE, interface="org.freedesktop.DBus.Properties"), "InvalidArgs"),
        (probe("Ping", "s", "a", interface="org.freedesktop.DBus.Peer"), "InvalidArgs"),
    ],
)
def test_what_does_not_exist_is_a_standard_error(service: Service, peer: Peer, call: Message, name: str) -> None:
    assert peer.error(call)[0] == ERROR + name


def test_an_expected_error_goes_out_as_it_is(service: Service, peer: Peer) -> None:
    assert peer.error(probe("Fail", "s", "expected")) == ("org.offsited.Offsite1.Error.Failed", "with \ufffd words \ufffd")


@pytest.mark.parametrize("how", ["unexpected", "wrong type"])
def test_a_defect_is_told_to_the_journal_alone(service: Service, peer: Peer, how: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        name, words = peer.error(probe("Fail", "s", how))
    assert name == "org.offsited.Offsite1.Error.Internal"
    assert "secret" not in words
    assert "/" not in words
    assert "Traceback" in caplog.text


def test_who_wants_no_reply_gets_none(service: Service, peer: Peer) -> None:
    for call in (
        probe("Echo", "s", "a", flags=NO_REPLY),
        probe("Fail", "s", "expected", flags=NO_REPLY),
        probe("Fail", "s", "unexpected", flags=NO_REPLY),
        probe("Nowhere", flags=NO_REPLY),
        probe("Echo", flags=NO_REPLY),
        probe("Ping", interface="org.freedesktop.DBus.Peer", flags=NO_REPLY),
        probe("Ping", path="/nowhere", flags=NO_REPLY),
    ):
        peer.send(call)
    last = peer.send(probe("Nothing"))
    assert peer.answer().reply_serial == last


def test_a_call_that_waits_keeps_nobody_else_waiting(service: Service, peer: Peer) -> None:
    held = peer.send(probe("Hold"))
    assert peer.ask(probe("Echo", "s", "meanwhile")).body == ["meanwhile"]
    service.do(service.probe.release.set)
    assert peer.reply(held).message_type is MessageType.METHOD_RETURN


@pytest.mark.parametrize("uid", [0, 65534])
def test_calls_of_one_connection_begin_in_order(service: Service, daemon: Daemon, uid: int) -> None:
    with Peer(daemon.address, uid=uid) as peer:
        for number in range(50):
            peer.send(probe("Echo", "s", str(number)))
        for _ in range(50):
            peer.answer()
    assert service.probe.echoed[:20] == [str(number) for number in range(20)]


def test_calls_that_run_are_canceled_at_the_end(daemon: Daemon, peer: Peer) -> None:
    with Service(daemon.address) as service:
        for _ in range(3):
            peer.send(probe("Hold"))
        peer.ask(probe("Nothing"))
    assert (service.probe.held, service.probe.canceled) == (0, 3)


def test_a_handler_may_end_the_connection(service: Service, peer: Peer) -> None:
    peer.send(probe("Fail", "s", "goodbye"))
    service.run(asyncio.wait_for(service.bus.wait_closed(), 5))


def test_peer_is_answered_on_any_path(service: Service, peer: Peer) -> None:
    for path in ("/", PATH, "/nowhere"):
        assert peer.ask(probe("Ping", interface="org.freedesktop.DBus.Peer", path=path)).body == []
        (machine,) = peer.ask(probe("GetMachineId", interface="org.freedesktop.DBus.Peer", path=path)).body
        assert len(bytes.fromhex(machine)) == 16
