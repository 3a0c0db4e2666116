# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec and the framer alone: what is written is read again, and what is not D-Bus is a MalformedError and nothing else."""

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from dbus_next.message import Message as LibraryMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from offsited.edge.bus import Variant, wire
from offsited.edge.bus.framing import MAX_UNASKED, Framer
from offsited.edge.bus.wire import Kind, MalformedError, Message

from .peer import marshalled

BASIC: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 2**8 - 1),
    "b": st.booleans(),
    "n": st.integers(-(2**15), 2**15 - 1),
    "q": st.integers(0, 2**16 - 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "u": st.integers(0, 2**32 - 1),
    "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1),
    "d": st.floats(allow_nan=False),
    "s": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    "o": st.sampled_from(["/", "/a", "/a/b_1"]),
    "g": st.sampled_from(["", "s", "a{sv}(ii)"]),
}
Typed = tuple[str, Any]


def arrays(inner: Typed) -> st.SearchStrategy[Typed]:
    signature, value = inner
    empty: object = b"" if signature == "y" else []
    full: object = bytes([value] * 3) if signature == "y" else [value] * 3
    return st.sampled_from([(f"a{signature}", empty), (f"a{signature}", full)])


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    structs = st.lists(inner, min_size=1, max_size=4).map(lambda items: (f"({''.join(s for s, _ in items)})", tuple(v for _, v in items)))
    dicts = st.tuples(BASIC["s"], inner).map(lambda pair: (f"a{{s{pair[1][0]}}}", {pair[0]: pair[1][1]}))
    return st.one_of(structs, dicts, inner.flatmap(arrays))


TYPED = st.recursive(
    st.sampled_from(sorted(BASIC)).flatmap(lambda token: st.tuples(st.just(token), BASIC[token])),
    containers,
    max_leaves=10,
)


def decoded(signature: str, body: bytes) -> tuple[Any, ...]:
    return wire.decode_body(Message(kind=Kind.CALL, signature=signature, body=body))


@settings(deadline=None)
@given(st.lists(TYPED, max_size=4))
def test_what_is_written_is_read(items: list[Typed]) -> None:
    signature, values = "".join(s for s, _ in items), tuple(v for _, v in items)
    assert decoded(signature, wire.encode_body(signature, values, wire.no_descriptor)) == values


@settings(deadline=None)
@given(TYPED)
def test_a_variant_holds_any_value(item: Typed) -> None:
    body = wire.encode_body("v", (Variant(*item),), wire.no_descriptor)
    assert decoded("v", body) == (item[1],)


@settings(deadline=None)
@given(st.sampled_from(["s", "as", "a{sv}", "v", "(ybnqiuxtdsog)", "aav", "ah", "a{oa{sa{sv}}}"]), st.binary(max_size=200))
def test_random_bodies_are_values_or_malformed(signature: str, body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        decoded(signature, body)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_random_streams_are_messages_or_malformed(chunks: list[bytes]) -> None:
    framer = Framer()
    with contextlib.suppress(MalformedError):
        for chunk in chunks:
            list(framer.feed(chunk))


def message(size: int = 0) -> bytes:
    library = LibraryMessage(path="/a/b", interface="a.b", member="C", destination=":1.7", serial=9, signature="ay", body=[bytes(size)])
    return marshalled(library)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 5, 3000, MAX_UNASKED + 1]), max_size=4), st.integers(1, 70_000))
def test_messages_are_cut_out_of_a_stream_however_it_comes(sizes: list[int], step: int) -> None:
    stream = b"".join(message(size) for size in sizes)
    framer = Framer()
    found = [each for start in range(0, len(stream), step) for each in framer.feed(stream[start : start + step])]
    assert [(each.path, each.interface, each.member, each.destination, each.serial) for each in found] == [
        ("/a/b", "a.b", "C", ":1.7", 9)
    ] * len(sizes)
    assert [None if each.body is None else len(wire.decode_body(each)[0]) for each in found] == [
        None if size > MAX_UNASKED else size for size in sizes
    ]


def test_our_messages_are_what_the_library_writes() -> None:
    header: dict[str, Any] = {"path": "/a/b", "interface": "a.b", "member": "C", "destination": ":1.7", "signature": "ay"}
    ours = Message(kind=Kind.CALL, body=wire.encode_body("ay", (b"x",), wire.no_descriptor), **header)
    library = LibraryMessage(serial=9, body=[b"x"], **header)
    assert list(Framer().feed(wire.encode(ours, 9))) == list(Framer().feed(marshalled(library)))


@pytest.mark.parametrize("start", [b"x" + bytes(15), b"l\x01\0\x02" + bytes(12)])
def test_another_protocol_is_malformed(start: bytes) -> None:
    with pytest.raises(MalformedError):
        list(Framer().feed(start))


@pytest.mark.parametrize("signature", ["a", "(", ")", "{sv}", "a{vs}", "()", "z", "a" * 300, "(" * 200])
def test_bad_signatures_are_malformed(signature: str) -> None:
    with pytest.raises(MalformedError):
        decoded(signature, bytes(100))


@pytest.mark.parametrize(("values", "signature"), [((1,), "ss"), ((1, 2), "u"), ((), "s")], ids=["type", "too many", "too few"])
def test_values_that_do_not_fit_are_malformed(values: Sequence[object], signature: str) -> None:
    with pytest.raises(MalformedError):
        wire.encode_body(signature, values, wire.no_descriptor)
