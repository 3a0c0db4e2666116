# SPDX-License-Identifier: GPL-3.0-or-later
"""A flood, ours or another's, ends no connection, starves no other caller, and grows nothing without bound."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from dbus_next.constants import MessageType

from offsited.edge.bus import admission, bus

from .conftest import Daemon
from .peer import NO_REPLY, Peer, probe
from .service import PATH, PATIENCE, PROBE, Service

LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
USERS = (1, 2, 3, 4, 5)
"""User ids that every Debian has: the bus turns away whom it does not know."""
NOBODY = 65534


def test_600_signals_at_once_all_arrive(service: Service, daemon: Daemon) -> None:
    text = "x" * 2000  # 1.2 MB: several times what the socket takes

    def burst() -> None:
        for number in range(600):
            service.bus.emit(PATH, PROBE, "Tick", number, text)

    with Peer(daemon.address) as reader, Peer(daemon.address) as deaf:
        reader.follow()
        deaf.follow()
        service.do(burst)
        assert [reader.signal("Tick").body[0] for _ in range(600)] == list(range(600))
        assert reader.ask(probe("Echo", "s", "alive")).body == ["alive"]


def test_1500_calls_at_once_are_all_answered(service: Service, peer: Peer) -> None:
    serials = {peer.send(probe("Echo", "s", "x" * 500)) for _ in range(1500)}
    answers = [peer.answer() for _ in range(1500)]
    assert {answer.reply_serial for answer in answers} == serials
    assert {answer.error_name for answer in answers} <= {None, LIMITS}
    assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]


def test_a_flooder_that_does_not_read_keeps_nobody_from_an_answer(service: Service, daemon: Daemon, peer: Peer) -> None:
    with Peer(daemon.address) as deaf:
        for number in range(1500):
            deaf.send(probe("Echo", "s", "x" * 5000))
            if number % 100 == 0:
                assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]
    assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]


def test_one_connection_cannot_have_more_than_its_share_going(service: Service, daemon: Daemon, peer: Peer) -> None:
    for _ in range(1500):
        peer.send(probe("Hold", flags=NO_REPLY))
    assert peer.error(probe("Nothing"))[0] == LIMITS
    assert service.probe.held == admission.PER_CONNECTION
    with Peer(daemon.address) as other:
        assert other.ask(probe("Nothing")).body == []
    service.do(service.probe.release.set)
    assert peer.ask(probe("Nothing")).body == []


@pytest.fixture
def crowd(daemon: Daemon) -> Iterator[list[Peer]]:
    """Connections of one user."""
    with ExitStack() as stack:
        yield [stack.enter_context(Peer(daemon.address, uid=NOBODY)) for _ in range(8)]


def test_many_connections_of_a_user_share_one_share(service: Service, daemon: Daemon, crowd: list[Peer], peer: Peer) -> None:
    for member in crowd:
        for _ in range(10):
            member.send(probe("Hold"))
        member.ask(probe("Ping", interface="org.freedesktop.DBus.Peer"))
    assert {member.error(probe("Nothing"))[0] for member in crowd} == {LIMITS}
    assert service.probe.held == admission.PER_USER
    with Peer(daemon.address, uid=USERS[0]) as other:
        assert other.ask(probe("Echo", "s", "a")).body == ["a"]
    assert peer.ask(probe("Echo", "s", "a")).body == ["a"]
    service.do(service.probe.release.set)
    assert crowd[0].ask(probe("Echo", "s", "a")).body == ["a"]


def test_calls_of_those_who_left_still_count(service: Service, daemon: Daemon) -> None:
    for _ in range(8):
        with Peer(daemon.address, uid=NOBODY) as passer_by:
            for _ in range(10):
                passer_by.send(probe("Hold", flags=NO_REPLY))
            passer_by.ask(probe("Ping", interface="org.freedesktop.DBus.Peer"))
    with Peer(daemon.address, uid=NOBODY) as late:
        assert late.error(probe("Nothing"))[0] == LIMITS
    assert service.probe.held == admission.PER_USER


def test_many_users_leave_room_for_root(service: Service, daemon: Daemon, peer: Peer) -> None:
    with ExitStack() as stack:
        outcomes: Counter[str | None] = Counter()
        for uid in USERS:
            member = stack.enter_context(Peer(daemon.address, uid=uid))
            for _ in range(admission.PER_USER):
                member.send(probe("Hold"))
            last = member.send(probe("Nothing"))
            outcomes[member.reply(last).error_name] += 1
        assert outcomes == {LIMITS: 5}
        assert service.probe.held == admission.OF_ALL_USERS
        assert peer.ask(probe("Nothing")).message_type is MessageType.METHOD_RETURN


def test_a_connection_that_the_bus_has_gone_deaf_on_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who does not read keeps our messages in the bus until they fill our share of it, 127 MiB by default."""
    monkeypatch.setattr(bus, "PULSE", 0.3)
    limits = {"max_incoming_bytes": 1 << 20, "max_outgoing_bytes": 8 << 20}
    with Daemon(limits) as daemon, Service(daemon.address) as service, Peer(daemon.address) as deaf:
        for _ in range(100):
            deaf.send(probe("Echo", "s", "x" * 50_000))
        service.run(asyncio.wait_for(service.bus.wait_closed(), PATIENCE))
