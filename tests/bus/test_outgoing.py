# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever goes out is fit for the bus, or does not go out: a malformed or endless message would end the connection."""

import os
from typing import Any

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant as WireVariant

from offsited.edge.bus import BusError, Variant
from offsited.edge.bus.wire import MAX_STRING, MalformedError

from .peer import Peer, probe
from .service import PATH, PROBE, Service, memfd

LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"


def test_strings_in_an_answer_are_made_fit(service: Service, peer: Peer) -> None:
    name, more = peer.ask(probe("Unfit")).body
    assert name == "a\ufffdb\ufffd" + "x" * (MAX_STRING - 4) + "…"
    assert more == {"key\ufffd": WireVariant("s", "caf\ufffd")}


def test_strings_in_a_signal_are_made_fit(service: Service, peer: Peer) -> None:
    peer.follow()
    service.do(lambda: service.bus.emit(PATH, PROBE, "Tick", 1, "a\0\ud800" + os.fsdecode(b"\xff")))
    assert peer.signal("Tick").body == [1, "a\ufffd\ufffd\ufffd"]


def test_strings_in_a_call_are_made_fit(service: Service, peer: Peer) -> None:
    future = service.start(service.bus.call(peer.name, "/a", "a.b", "C", "sas", "a\0", ["\udcff"]))
    call = peer.call_to_me()
    assert call.body == ["a\ufffd", ["\ufffd"]]
    peer.send(Message.new_method_return(call))
    assert future.result(5) == ()


def test_a_long_answer_is_sent(service: Service, peer: Peer) -> None:
    (text,) = peer.ask(probe("Long", "u", 7)).body
    assert [len(part) for part in text] == [1 << 20] * 7


def test_a_very_long_answer_is_refused_and_the_connection_lives(service: Service, peer: Peer) -> None:
    assert peer.error(probe("Long", "u", 8))[0] == LIMITS
    assert peer.error(probe("Long", "u", 200))[0] == LIMITS
    assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]


class Lengthy:
    """An object whose mere announcement is too long."""

    interface = PROBE

    def properties(self) -> dict[str, object]:
        return {"Name": "n", "Count": 1, "Paths": ["/" + "x" * 250] * 40_000}

    async def call(self, *_: object) -> tuple[Any, ...]:
        return ()


def test_a_very_long_call_or_signal_of_ours_is_refused(service: Service, peer: Peer) -> None:
    with pytest.raises(BusError, match="LimitsExceeded"):
        service.run(service.bus.call(peer.name, "/a", "a.b", "C", "ay", bytes(9 << 20)))
    with pytest.raises(BusError, match="LimitsExceeded"):
        service.do(lambda: service.bus.export(f"{PATH}/long", [Lengthy()]))
    assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("o", "relative"),
        ("o", "/new\n"),
        ("o", ""),
        ("g", "("),
        ("s", 1),
        ("s", None),
        ("b", 1),
        ("b", "false"),
        ("u", -1),
        ("u", 1 << 32),
        ("t", 1.5),
        ("y", 256),
        ("as", "text"),
        ("ay", [1]),
        ("(ss)", ("one",)),
        ("a{sv}", [("k", "v")]),
        ("a{sv}", {"k": object()}),
        ("a{sv}", {"k": Variant("ss", "v")}),
        ("a{sv}", {1: "v"}),
        ("h", 0),
        ("h", -1),
        ("z", 1),
    ],
)
def test_what_is_not_of_its_type_is_refused_here(service: Service, peer: Peer, signature: str, value: object) -> None:
    with pytest.raises(MalformedError):
        service.run(service.bus.call(peer.name, "/a", "a.b", "C", signature, value))
    assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]


@pytest.mark.parametrize(
    ("destination", "path", "interface", "member"),
    [
        ("no name", "/a", "a.b", "C"),
        ("a.b\n", "/a", "a.b", "C"),
        (":1.0", "a", "a.b", "C"),
        (":1.0", "/a", "a", "C"),
        (":1.0", "/a", "a.b", "C.D"),
        (":1.0", "/a", "a." + "b" * 255, "C"),
    ],
)
def test_what_is_no_name_is_refused_here(service: Service, peer: Peer, destination: str, path: str, interface: str, member: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MalformedError):
        service.run(service.bus.call(destination, path, interface, member, "h", 0, fds=[0]))
    assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_values_arrive_with_their_types(service: Service, peer: Peer) -> None:
    fd = memfd(b"handed on")
    properties = [("Fd", Variant("h", 0)), ("Exec", Variant("a(sasb)", [("/bin/true", ["true"], False)]))]
    extra = {"flag": True, "many": 5, "less": -5, "part": 0.5, "raw": b"\0", "words": ["a"], "nested": {"k": "v"}}
    future = service.start(service.bus.call(peer.name, "/a", "a.b", "C", "a(sv)a{sv}", properties, extra, fds=[fd]))
    call = peer.call_to_me()
    assert call.body == [
        [["Fd", WireVariant("h", 0)], ["Exec", WireVariant("a(sasb)", [["/bin/true", ["true"], False]])]],
        {
            "flag": WireVariant("b", True),  # noqa: FBT003
            "many": WireVariant("t", 5),
            "less": WireVariant("x", -5),
            "part": WireVariant("d", 0.5),
            "raw": WireVariant("ay", b"\0"),
            "words": WireVariant("as", ["a"]),
            "nested": WireVariant("a{sv}", {"k": WireVariant("s", "v")}),
        },
    ]
    assert os.pread(call.unix_fds[0], 100, 0) == b"handed on"
    os.close(call.unix_fds[0])
    peer.send(Message.new_method_return(call, "(sv)at", [["a", WireVariant("ao", ["/"])], [1, 2]]))
    assert future.result(5) == (("a", ["/"]), [1, 2])
    os.close(fd)


def test_a_peers_error_is_raised(service: Service, peer: Peer) -> None:
    future = service.start(service.bus.call(peer.name, "/a", "a.b", "C"))
    peer.send(Message.new_error(peer.call_to_me(), "org.offsited.Fake1.Error.Odd", "some words"))
    with pytest.raises(BusError) as raised:
        future.result(5)
    assert (raised.value.name, raised.value.message) == ("org.offsited.Fake1.Error.Odd", "some words")


def test_an_endless_answer_is_an_error_of_that_call_alone(service: Service, peer: Peer) -> None:
    future = service.start(service.bus.call(peer.name, "/a", "a.b", "C"))
    peer.send(Message.new_method_return(peer.call_to_me(), "ay", [bytes(20 << 20)]))
    with pytest.raises(BusError, match="LimitsExceeded"):
        future.result(5)
    assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]


def test_whether_polkit_may_ask_is_passed_on(service: Service, peer: Peer) -> None:
    for interactive in (True, False):
        service.start(service.bus.call(peer.name, "/a", "a.b", "C", interactive=interactive))
        assert bool(peer.call_to_me().flags & 4) is interactive
