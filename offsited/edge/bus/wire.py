# SPDX-License-Identifier: GPL-3.0-or-later
"""D-Bus messages as bytes and back: dbus_next's marshalling under our own rules for what goes out and what comes in.

Out: strings are made fit for the bus, types and lengths are checked first, because the bus drops the connection of a peer that sends
anything malformed. In: header and body apart, so that a body is not decoded before somebody wants it; unknown header fields, flags and
message types are passed over, as the specification asks. https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol
"""

import io
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Any, Final

from dbus_next._private.marshaller import Marshaller
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.signature import SignatureTree, SignatureType

from offsited.edge.bus.vocabulary import LIMITS_EXCEEDED, BusError, Variant

MAX_MESSAGE: Final = 8 << 20
"""Bytes of a body that we send, or accept as an answer. The system bus cuts off whoever sends 32 MiB."""
MAX_STRING: Final = 1 << 20
"""Characters of an outgoing string; what follows is cut off."""
FIXED: Final = 16
"""Bytes of a header before its fields."""
_ENDIANS: Final = {ord("l"): "<", ord("B"): ">"}
_FIELDS: Final = {
    1: ("path", "o"), 2: ("interface", "s"), 3: ("member", "s"), 4: ("error_name", "s"), 5: ("reply_serial", "u"),
    6: ("destination", "s"), 7: ("sender", "s"), 8: ("signature", "g"), 9: ("descriptors", "u"),
}  # fmt: skip
_UNFIT: Final = re.compile("[\0\ud800-\udfff]")
_PATH: Final = re.compile(r"/|(/[A-Za-z0-9_]+)+")
_INTERFACE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
_NAMES: Final = {
    "interface": _INTERFACE,
    "error_name": _INTERFACE,
    "member": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "destination": re.compile(r":[A-Za-z0-9_.-]+|[A-Za-z_-][A-Za-z0-9_-]*(\.[A-Za-z_-][A-Za-z0-9_-]*)+"),
}
_MAX_NAME: Final = 255
_BAD_ENTRY: Final = re.compile(r"(?<!a)\{|\{v")
"""What dbus_next's parser lets through and the bus does not."""
_PLAIN: Final = ((bool, "b"), (str, "s"), (float, "d"), (bytes, "ay"), (dict, "a{sv}"))


class Kind(IntEnum):
    """Types of messages."""

    CALL = 1
    RETURN = 2
    ERROR = 3
    SIGNAL = 4


class Flag(IntFlag):
    """Flags of a message."""

    NO_REPLY_EXPECTED = 1
    NO_AUTO_START = 2
    ALLOW_INTERACTIVE_AUTHORIZATION = 4


class MalformedError(ValueError):
    """What came in is no D-Bus message, or what should go out cannot be one."""


class TooLongError(BusError):
    """What should go out is longer than MAX_MESSAGE."""

    def __init__(self) -> None:
        super().__init__(LIMITS_EXCEEDED, "the message is too long for the bus")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message: its header decoded, its body still bytes. `body` is None for one that was too long to be kept."""

    kind: int
    flags: int = 0
    serial: int = 0
    endian: int = ord("l")
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    descriptors: int = 0
    """How many descriptors the header announces."""
    body: bytes | None = b""
    fds: tuple[int, ...] = ()

    @property
    def wants_reply(self) -> bool:
        """Whether it is a call whose sender waits for an answer."""
        return self.kind == Kind.CALL and not self.flags & Flag.NO_REPLY_EXPECTED

    def with_fds(self, fds: tuple[int, ...]) -> "Message":
        """The same message with descriptors, and announcing them."""
        return self if fds == self.fds and len(fds) == self.descriptors else replace(self, fds=fds, descriptors=len(fds))


def lengths(fixed: bytes | bytearray) -> tuple[int, int]:
    """Given the first FIXED bytes of a message, return the lengths of its header, padding included, and of its body."""
    order = _ENDIANS.get(fixed[0])
    if order is None or fixed[3] != 1:
        raise MalformedError("not a message of protocol version 1")
    body, _, fields = struct.unpack_from(f"{order}III", fixed, 4)
    return FIXED + (fields + 7) // 8 * 8, body


def decode_header(header: bytes, body: bytes | None) -> Message:
    """Given a whole header and the body that came with it, return the message. Raise MalformedError."""
    order = _ENDIANS[header[0]]
    (serial,) = struct.unpack_from(f"{order}I", header, 8)
    (fields,) = _Reader(header, 12, header[0]).values("a(yv)")
    known = {_FIELDS[code][0]: value for code, value in fields if code in _FIELDS}
    return Message(kind=header[1], flags=header[2], serial=serial, endian=header[0], body=body, **known)


def decode_body(message: Message, used: set[int] | None = None) -> tuple[Any, ...]:
    """Return the values of a message's body, its descriptors in place; those are added to `used`. Raise MalformedError."""
    if message.body is None:
        raise MalformedError("the message is too long")
    return _Reader(message.body, 0, message.endian, message.fds, used).values(message.signature)


def encode_body(signature: str, values: Sequence[object], descriptor: Callable[[int], int]) -> bytes:
    """Given values and what makes the index of a value of type h, return the body. Raise MalformedError or TooLongError."""
    return _Writer(descriptor).values(signature, values)


def encode(message: Message, serial: int) -> bytes:
    """Return the bytes of a message under a serial. Raise MalformedError if a header field is not what the bus accepts."""
    message = message.with_fds(message.fds)
    body = message.body or b""
    fields = [(code, Variant(type_, getattr(message, name))) for code, (name, type_) in _FIELDS.items() if getattr(message, name)]
    for name, pattern in _NAMES.items():
        _check_name(name, getattr(message, name), pattern)
    fixed = (message.endian, message.kind, message.flags, 1, len(body), serial)
    header = _Writer(no_descriptor).values("yyyyuua(yv)", (*fixed, fields))
    return header + bytes(-len(header) % 8) + body


@lru_cache(maxsize=256)
def complete_types(signature: str) -> tuple[SignatureType, ...]:
    """Parse a signature. Bounded, as strangers choose signatures; dbus_next's own cache is not. Raise MalformedError."""
    if _BAD_ENTRY.search(signature):
        raise MalformedError("bad signature: a dictionary entry out of place or without a basic key")
    try:
        return tuple(SignatureTree(signature).types)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"bad signature: {error}") from None


def fit(text: str) -> str:
    """Return a string that the bus accepts: NUL and lone surrogates (a file name that is not UTF-8) replaced, its length bounded."""
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", text if len(text) <= MAX_STRING else f"{text[:MAX_STRING]}…")


def is_path(value: object) -> bool:
    """Whether a value is an object path."""
    return isinstance(value, str) and _PATH.fullmatch(value) is not None


def no_descriptor(_value: int) -> int:
    """For a body without descriptors."""
    raise MalformedError("no descriptor can go here")


def plain_type(value: object) -> str:
    """The D-Bus type in a variant of a plain value: b, s, t (x if negative), d, ay, as, a{sv}. Raise MalformedError for others."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "t" if value >= 0 else "x"
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return "as"
    for python, signature in _PLAIN:
        if isinstance(value, python):
            return signature
    raise MalformedError(f"no obvious type for {type(value).__name__}; say it with a Variant")


def _single(signature: str) -> SignatureType:
    types = complete_types(signature)
    if len(types) != 1:
        raise MalformedError("a variant holds one complete type")
    return types[0]


def _check_name(field: str, value: str, pattern: re.Pattern[str]) -> None:
    if value and (len(value) > _MAX_NAME or not pattern.fullmatch(value)):
        raise MalformedError(f"bad {field}: {value[:_MAX_NAME]!r}")


class _Reader(Unmarshaller):
    """Reads plain values out of one block of bytes. There is no stream behind it: a block too short is an EOFError."""

    def __init__(self, block: bytes, offset: int, endian: int, fds: Sequence[int] = (), used: set[int] | None = None) -> None:
        super().__init__(io.BytesIO())  # type: ignore[no-untyped-call]
        self.buf = bytearray(block)
        self.offset = offset
        self.endian = endian
        self._fds = fds
        self._used = set() if used is None else used
        self.readers["h"] = self._read_descriptor

    def values(self, signature: str) -> tuple[Any, ...]:
        types = complete_types(signature)
        try:
            return tuple(self.read_argument(type_) for type_ in types)  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever it stumbles over, the bytes are a stranger's
            raise MalformedError(f"{type(error).__name__}: {error}") from None

    def read_struct(self, type_: SignatureType) -> tuple[Any, ...]:
        return tuple(super().read_struct(type_))  # type: ignore[no-untyped-call]

    def read_variant(self, _: object = None) -> object:
        return self.read_argument(_single(self.read_signature()))  # type: ignore[no-untyped-call]

    def _read_descriptor(self, _: object) -> int:
        descriptor = self._fds[self.read_uint32()]  # type: ignore[no-untyped-call]
        self._used.add(descriptor)
        return descriptor


class _Writer(Marshaller):
    """Writes plain values, each checked against its type before it is written."""

    def __init__(self, descriptor: Callable[[int], int]) -> None:
        super().__init__("", [])  # type: ignore[no-untyped-call]
        self._descriptor = descriptor
        self.writers["h"] = self._write_descriptor

    def values(self, signature: str, values: Sequence[object]) -> bytes:
        types = complete_types(signature)
        if len(types) != len(values):
            raise MalformedError(f"{len(values)} values for the signature {signature!r}")
        try:
            for type_, value in zip(types, values, strict=True):
                self.write_single(type_, value)
        except (TypeError, ValueError, struct.error, RecursionError) as error:
            raise MalformedError(f"{signature}: {error}") from error
        self._check_length()
        return bytes(self.buffer)

    def write_single(self, type_: SignatureType, value: object) -> int:
        self._check_length()
        _check(type_, value)
        return int(super().write_single(type_, value))  # type: ignore[no-untyped-call]

    def _check_length(self) -> None:
        if len(self.buffer) > MAX_MESSAGE:
            raise TooLongError

    def write_string(self, value: str, _: object = None) -> int:
        return int(super().write_string(fit(value)))  # type: ignore[no-untyped-call]

    def write_variant(self, value: object, _: object = None) -> int:
        variant = value if isinstance(value, Variant) else Variant(plain_type(value), value)
        written = self.write_signature(variant.signature)  # type: ignore[no-untyped-call]
        return int(written) + self.write_single(_single(variant.signature), variant.value)

    def _write_descriptor(self, value: int, _: object) -> int:
        return int(self.write_uint32(self._descriptor(value)))  # type: ignore[no-untyped-call]


def _check(type_: SignatureType, value: object) -> None:
    """Raise MalformedError unless a value can be of a type; what containers hold is checked when its turn comes."""
    match type_.token:
        case "v":
            return
        case "o":
            good = is_path(value)
        case "g":
            good = isinstance(value, str) and complete_types(value) is not None
        case "(":
            good = isinstance(value, tuple | list) and len(value) == len(type_.children)
        case "a":
            good = isinstance(value, {"{": dict, "y": bytes}.get(type_.children[0].token, tuple | list))
        case _:
            good = type_.verify(value)
    if not good:
        raise MalformedError(f"not of type {type_.signature}: {type(value).__name__}")
