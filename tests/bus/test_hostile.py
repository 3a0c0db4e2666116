# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a peer sends, the connection lives and others are answered. A real dbus-daemon stands between, and lets much of it through."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from .conftest import Daemon
from .peer import Peer, marshalled, probe
from .service import PATH, PROBE, Service

ERROR = "org.freedesktop.DBus.Error."


@pytest.fixture(scope="module")
def bus() -> Iterator[tuple[Daemon, Service]]:
    """One bus and one service for all of these tests: what one of them breaks, the next ones see."""
    with Daemon() as daemon, Service(daemon.address) as service:
        yield daemon, service


@pytest.fixture
def hostile(bus: tuple[Daemon, Service]) -> Iterator[Peer]:
    """A peer that will misbehave."""
    with Peer(bus[0].address) as hostile:
        yield hostile


@pytest.fixture(autouse=True)
def alive(bus: tuple[Daemon, Service]) -> Iterator[None]:
    """Afterwards the service is still the same connection, and answers."""
    daemon, service = bus
    name = service.bus.unique_name
    yield
    with Peer(daemon.address) as friend:
        assert friend.ask(probe("Echo", "s", "alive", destination=name)).body == ["alive"]


def raw(peer: Peer, message: Message, *, kind: int | None = None, flags: int | None = None) -> int:
    """Send a message with a type or flags that dbus_next would not send."""
    message.serial = peer.next_serial()
    data = bytearray(marshalled(message))
    data[1] = data[1] if kind is None else kind
    data[2] = data[2] if flags is None else flags
    peer.send_bytes(bytes(data))
    return message.serial


def nested(depth: int) -> Variant:
    value = Variant("s", "bottom")
    for _ in range(depth):
        value = Variant("v", value)
    return value


def test_unknown_kinds_of_messages_are_passed_over(hostile: Peer) -> None:
    for kind in (5, 9, 255):
        raw(hostile, probe("Echo", "s", "a"), kind=kind)
    assert hostile.ask(probe("Echo", "s", "a")).body == ["a"]


def test_unknown_flags_are_passed_over(hostile: Peer) -> None:
    assert hostile.reply(raw(hostile, probe("Echo", "s", "a"), flags=0xF8)).body == ["a"]


def test_unknown_header_fields_are_passed_over(hostile: Peer) -> None:
    message = probe("Echo", "s", "a")
    message.serial = hostile.next_serial()
    data = marshalled(message)
    (length,) = struct.unpack_from("<I", data, 12)
    fields = data[16 : 16 + length] + bytes(-length % 8) + b"\x4d\x01y\0\x05"
    body = data[16 + length + -length % 8 :]
    hostile.send_bytes(data[:12] + struct.pack("<I", len(fields)) + fields + bytes(-len(fields) % 8) + body)
    assert hostile.reply(message.serial).body == ["a"]


def test_big_endian_calls_are_answered(hostile: Peer) -> None:
    fields = b""
    texts = ((1, b"o", PATH), (6, b"s", "org.offsited.Test1"), (2, b"s", PROBE), (3, b"s", "Echo"))
    for code, type_, text in texts:
        fields += bytes(-len(fields) % 8) + bytes([code, 1]) + type_ + b"\0" + struct.pack(">I", len(text)) + text.encode() + b"\0"
    fields += bytes(-len(fields) % 8) + b"\x08\x01g\0\x01s\0"
    body = struct.pack(">I", 3) + b"big\0"
    serial = hostile.next_serial()
    header = b"B\x01\0\x01" + struct.pack(">III", len(body), serial, len(fields)) + fields
    hostile.send_bytes(header + bytes(-len(header) % 8) + body)
    assert hostile.reply(serial).body == ["big"]


def test_deep_nesting_is_read(hostile: Peer) -> None:
    assert hostile.ask(probe("Anything", "v", nested(60))).body == ["'bottom'"]
    deep = "a" * 31 + "v"
    value: Any = nested(30)
    for _ in range(31):
        value = [value]
    assert hostile.ask(probe("Anything", "v", Variant(deep, value))).body == ["[" * 31 + "'bottom'" + "]" * 31]


def test_nesting_beyond_what_the_bus_allows_costs_the_sender_only(hostile: Peer) -> None:
    hostile.send(probe("Anything", "v", nested(70)))
    with pytest.raises((EOFError, ConnectionError)):
        hostile.answer()


@pytest.mark.parametrize("value", [Variant("ay", bytes(1 << 20)), Variant("au", [0] * 20_000), Variant("s", "x" * 66_000)])
def test_a_long_argument_is_refused_unread(hostile: Peer, value: Variant) -> None:
    assert hostile.error(probe("Anything", "v", value))[0] == ERROR + "LimitsExceeded"


def test_an_argument_as_long_as_the_bus_allows_is_refused(bus: tuple[Daemon, Service], hostile: Peer) -> None:
    serial = hostile.send(probe("Anything", "v", Variant("ay", bytes(31 << 20))))
    assert hostile.reply(serial).error_name == ERROR + "LimitsExceeded"
    hostile.send(probe("Anything", "v", Variant("ay", bytes(31 << 20)), path="/" + "x" * 100_000))
    assert hostile.ask(probe("Echo", "s", "a")).body == ["a"]


def test_an_argument_as_long_as_we_allow_is_read(hostile: Peer) -> None:
    assert hostile.ask(probe("Anything", "v", Variant("ay", bytes(65_000)))).error_name is None
    assert hostile.ask(probe("Anything", "v", Variant("av", [Variant("y", 1)] * 16_000))).error_name is None


def test_many_signatures_do_not_fill_memory(hostile: Peer) -> None:
    known = len(SignatureTree._cache)
    for number in range(300):
        signature = "(" + format(number, "09b").replace("0", "s").replace("1", "v") + ")"
        value = [Variant("y", 1) if token == "v" else "s" for token in signature[1:-1]]
        assert hostile.ask(probe("Anything", "v", Variant(SignatureTree(signature), value))).error_name is None
    assert len(SignatureTree._cache) < known + 10


def test_answers_that_nobody_asked_for_are_passed_over(bus: tuple[Daemon, Service], hostile: Peer) -> None:
    for serial in range(1, 100):
        answer = Message(message_type=MessageType.METHOD_RETURN, destination=bus[1].bus.unique_name, reply_serial=serial)
        hostile.send(answer)
    assert hostile.ask(probe("Echo", "s", "a")).body == ["a"]


CALLS = [
    marshalled(message)
    for message in (
        probe("Echo", "s", "text", serial=7),
        probe("Options", "a{sv}", {"k": Variant("(sav)", ["a", [Variant("u", 1)]])}, serial=7),
        probe("Take", "h", 0, serial=7),
        probe("Get", "ss", PROBE, "Count", interface="org.freedesktop.DBus.Properties", serial=7),
    )
]
CHANGES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CALLS), CHANGES)
@example(CALLS[0], [(1, 3)])
@example(CALLS[0], [(1, 4)])
def test_messages_with_some_bytes_changed(bus: tuple[Daemon, Service], data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for index, value in changes:
        changed[index % len(changed)] = value
    daemon, _ = bus
    with Peer(daemon.address) as mutant, Peer(daemon.address) as friend:
        mutant.send_bytes(bytes(changed))
        assert friend.ask(probe("Echo", "s", "alive")).body == ["alive"]


VALUES = st.recursive(
    st.one_of(
        st.builds(Variant, st.just("s"), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
        st.builds(Variant, st.just("t"), st.integers(0, 2**64 - 1)),
        st.builds(Variant, st.just("d"), st.floats()),
        st.builds(Variant, st.just("ay"), st.binary()),
        st.builds(Variant, st.just("h"), st.integers(0, 20)),
        st.builds(Variant, st.just("g"), st.sampled_from(["", "a{sv}", "(" * 30 + "y" + ")" * 30])),
    ),
    lambda inner: st.one_of(
        st.builds(Variant, st.just("v"), inner),
        st.builds(Variant, st.just("av"), st.lists(inner, max_size=5)),
        st.builds(Variant, st.just("a{dv}"), st.dictionaries(st.floats(), inner, max_size=5)),
        st.builds(Variant, st.just("(vv)"), st.lists(inner, min_size=2, max_size=2)),
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_any_value_is_answered(bus: tuple[Daemon, Service], value: Variant) -> None:
    with Peer(bus[0].address) as peer:
        assert peer.ask(probe("Anything", "v", value)).error_name in {None, ERROR + "InvalidArgs"}
