# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals of others are heard if they come from the owner of the name that is watched, and from nobody else."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from offsited.edge.bus import BusError, Signal, Watch
from offsited.edge.bus.watches import Owners

from .conftest import Daemon
from .peer import DRIVER, Peer, probe
from .service import PATIENCE, Service

FAKE = "org.offsited.Fake1"
INTERFACE = "org.offsited.Fake1.Manager"
DRIVER_PATH = "/org/freedesktop/DBus"


@pytest.fixture
def owner(daemon: Daemon) -> Iterator[Peer]:
    """A service that is watched."""
    with Peer(daemon.address) as owner:
        own(owner)
        yield owner


def own(peer: Peer) -> None:
    assert peer.call(DRIVER, DRIVER_PATH, DRIVER, "RequestName", "su", FAKE, 4) == [1]


def tell(
    peer: Peer, member: str, *, to: str | None = None, path: str = "/a/b", interface: str = INTERFACE, body: list[Any] | None = None
) -> None:
    """Emit a signal, to everybody or to one connection, and wait until it has been delivered there."""
    body = body or []
    signature = "s" * len(body)
    header: dict[str, Any] = {"destination": to, "path": path, "interface": interface, "member": member}
    signal = Message(message_type=MessageType.SIGNAL, signature=signature, body=body, **header)
    peer.send(signal)
    assert peer.ask(probe("Nothing")).error_name is None  # comes behind the signal on every way


class Listener:
    """Collects what a watch hears."""

    def __init__(self, service: Service, **rule: Any) -> None:
        self.heard: list[Signal] = []
        wanted = {"sender": FAKE, "interface": INTERFACE, "handler": self.heard.append, **rule}
        self.watch: Watch = service.run(service.bus.watch(**wanted))

    @property
    def members(self) -> list[str]:
        return [signal.member for signal in self.heard]


def test_a_signal_of_the_owner_is_heard(service: Service, owner: Peer) -> None:
    listener = Listener(service)
    tell(owner, "One", body=["a", "b"])
    assert listener.heard == [Signal(owner.name, "/a/b", INTERFACE, "One", ("a", "b"))]


def test_a_signal_of_anybody_else_is_not(service: Service, owner: Peer, peer: Peer) -> None:
    listener = Listener(service)
    tell(peer, "Broadcast")
    tell(peer, "Unicast", to=service.bus.unique_name)
    tell(owner, "True")
    assert listener.members == ["True"]


def test_nobody_can_say_that_a_name_has_changed_hands(service: Service, owner: Peer, peer: Peer) -> None:
    listener = Listener(service)
    for path in ("/a", DRIVER_PATH):
        body = [FAKE, owner.name, peer.name]
        tell(peer, "NameOwnerChanged", to=service.bus.unique_name, path=path, interface=DRIVER, body=body)
    tell(peer, "Spoofed", to=service.bus.unique_name)
    tell(owner, "True")
    assert listener.members == ["True"]


def test_the_name_is_followed_from_owner_to_owner(service: Service, daemon: Daemon) -> None:
    listener = Listener(service)
    with Peer(daemon.address) as first, Peer(daemon.address) as second:
        tell(first, "Early", to=service.bus.unique_name)
        own(first)
        tell(first, "First")
        first.call(DRIVER, DRIVER_PATH, DRIVER, "ReleaseName", "s", FAKE)
        tell(first, "Retired", to=service.bus.unique_name)
        own(second)
        tell(first, "StillRetired", to=service.bus.unique_name)
        tell(second, "Second")
    assert listener.members == ["First", "Second"]


def test_a_watch_hears_what_its_rule_says(service: Service, owner: Peer) -> None:
    everything = Listener(service)
    member = Listener(service, member="One")
    path = Listener(service, path="/a/b")
    below = Listener(service, path_namespace="/a")
    argument = Listener(service, arg0="it's")
    for name, at, body in (("One", "/a/b", ["it's"]), ("Two", "/a", ["its"]), ("Three", "/ab", []), ("Four", "/a/b/c", ["it's"])):
        tell(owner, name, path=at, body=body)
    tell(owner, "Five", interface="org.offsited.Fake1.Other")
    assert everything.members == ["One", "Two", "Three", "Four"]
    assert member.members == ["One"]
    assert path.members == ["One"]
    assert below.members == ["One", "Two", "Four"]
    assert argument.members == ["One", "Four"]


def test_a_path_can_be_the_argument_of_a_rule(service: Service, owner: Peer) -> None:
    """The bus compares arg0 with strings only, and so do we: a signal sent straight to us is not filtered by the bus."""
    listener = Listener(service, arg0="/a")
    signal = Message(message_type=MessageType.SIGNAL, destination=service.bus.unique_name, path="/a", interface=INTERFACE, member="One")
    signal.signature, signal.body = "v", [Variant("s", "/b")]
    owner.send(signal)
    tell(owner, "Two", body=["/a"])
    assert listener.members == ["Two"]


def test_the_bus_itself_can_be_watched(service: Service, peer: Peer) -> None:
    listener = Listener(service, sender=DRIVER, interface=DRIVER, member="NameOwnerChanged", arg0=FAKE)
    own(peer)
    peer.ask(probe("Nothing"))
    assert [signal.body for signal in listener.heard] == [(FAKE, "", peer.name)]


def test_a_closed_watch_hears_nothing_and_leaves_no_rule(service: Service, owner: Peer) -> None:
    closed, other = Listener(service), Listener(service, member="One")
    service.run(closed.watch.close())
    service.run(closed.watch.close())
    tell(owner, "One")
    assert (closed.members, other.members) == ([], ["One"])
    with pytest.raises(BusError, match="MatchRuleNotFound"):
        service.run(service.bus.call(DRIVER, DRIVER_PATH, DRIVER, "RemoveMatch", "s", str(closed.watch.rule)))


def test_a_defect_in_a_handler_keeps_others_from_nothing(service: Service, owner: Peer, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_signal: Signal) -> None:
        raise RuntimeError("a defect")

    Listener(service, handler=fail)
    listener = Listener(service)
    tell(owner, "One")
    assert listener.members == ["One"]
    assert "a defect" in caplog.text


def test_two_watches_at_once_on_a_new_name(service: Service, owner: Peer) -> None:
    heard: list[Signal] = []
    started = [service.start(service.bus.watch(sender=FAKE, interface=INTERFACE, handler=heard.append)) for _ in range(2)]
    for future in started:
        future.result(PATIENCE)
    tell(owner, "One")
    assert len(heard) == 2


def test_a_rule_that_the_bus_refuses_is_an_error(service: Service, owner: Peer) -> None:
    with pytest.raises(BusError, match="MatchRuleInvalid"):
        Listener(service, member="not a member")
    tell(owner, "One", to=service.bus.unique_name)


def test_a_change_heard_of_before_the_answer_is_the_newer_truth() -> None:
    async def ask(member: str, _text: str) -> tuple[str, ...]:
        if member == "GetNameOwner":
            owners.changed(FAKE, ":1.2")
            return (":1.1",)
        return ()

    owners = Owners(ask)
    asyncio.run(owners.follow(FAKE))
    assert owners.owns(":1.2", FAKE)
    assert not owners.owns(":1.1", FAKE)
