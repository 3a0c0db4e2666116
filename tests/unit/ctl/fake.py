# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's side of the bus, played by a test: objects, outcomes and answers as the test wants them, on a thread of its own.

What it answers follows dbus/org.offsited.Offsite1.xml; that the real daemon does so too is for the system tests to show.
"""

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType, RequestNameReply
from dbus_next.message import Message
from dbus_next.signature import Variant

from offsited import names

PROPERTIES = "org.freedesktop.DBus.Properties"
SYSTEMD = "org.freedesktop.systemd1"
STANDARD_ERROR = "org.freedesktop.DBus.Error."
TIMEOUT = 20.0

_Result = TypeVar("_Result")
Body = tuple[str, list[Any], list[int]]
"""Signature, values and descriptors of a reply."""


@dataclass
class Call:
    """A call that somebody made. Descriptors are read and closed on arrival."""

    sender: str
    path: str
    member: str
    args: list[Any]
    interactive: bool
    contents: list[bytes] = field(default_factory=list)
    inodes: list[tuple[int, int]] = field(default_factory=list)


class BusError(Exception):
    """The answer is an error."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(name, text)
        self.name = name
        self.text = text


class FakeDaemon:
    """One vault, `home`, with the targets `seed` (a disk, the default) and `vps`; more by `add_vault`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._bus: MessageBus | None = None
        self._systemd: MessageBus | None = None
        self.calls: queue.Queue[Call] = queue.Queue()
        self.objects: dict[str, dict[str, dict[str, Variant]]] = {}
        self.outcomes: dict[int, dict[str, Variant]] = {}
        self.records: dict[int, bytes] = {}
        self.refuse: dict[str, BusError] = {}
        """Method -> what it answers instead."""
        self.silent: set[str] = set()
        """Methods that get no answer."""
        self.passphrase = b"correct horse"
        self.next_elapse: dict[str, int] = {}
        self.invalid: list[str] = []
        self.when: dict[str, Callable[[Call], None]] = {}
        """Method -> what happens before it is answered."""
        self.then: dict[str, Callable[[Call], None]] = {}
        """Method -> what happens when it has been answered."""
        self._last_job = 0
        self.add_vault("home", {"seed": "disk", "vps": "ssh"})

    def __enter__(self) -> Self:
        self._thread.start()
        self._systemd = self._do(self._own(SYSTEMD, self._answer_for_systemd))
        self.join()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        assert self._systemd is not None
        self._do(_gone(self._systemd))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    # --- what a test does ------------------------------------------------------------------------------------------
    def join(self) -> None:
        """Come to the bus, under a new unique name."""
        self._bus = self._do(self._own(names.BUS_NAME, self._answer))

    def leave(self) -> None:
        """Go, as a daemon that is killed."""
        if self._bus is not None:
            self._do(_gone(self._bus))
            self._bus = None

    def wait_call(self, member: str) -> Call:
        """Return the next call of this method, skipping others."""
        while True:
            call = self.calls.get(timeout=TIMEOUT)
            if call.member == member:
                return call

    def made(self, member: str) -> list[Call]:
        """All calls of this method so far, in order; takes every call off the queue."""
        found = []
        while not self.calls.empty():
            found.append(self.calls.get())
        return [call for call in found if call.member == member]

    def add_vault(self, vault: str, targets: dict[str, str], *, locked: bool = False) -> None:
        path = names.vault_path(vault)
        default = next(iter(targets))
        self.objects[path] = {
            names.VAULT: {
                "Name": Variant("s", vault),
                "Id": Variant("s", f"id-of-{vault}"),
                "Locked": Variant("b", locked),
                "Job": Variant("o", "/"),
                "DefaultTarget": Variant("s", default),
                "LastJob": Variant("u", 0),
                "LastOutcome": Variant("s", ""),
                "LastReason": Variant("s", ""),
            }
        }
        for target, kind in targets.items():
            self.objects[names.target_path(vault, target)] = {
                names.TARGET: {
                    "Name": Variant("s", target),
                    "Vault": Variant("o", path),
                    "Kind": Variant("s", kind),
                    "Default": Variant("b", target == default),
                    "State": Variant("s", "present" if kind == "disk" else "unknown"),
                    "CommitJob": Variant("u", 0),
                    "SnapshotDated": Variant("t", 0),
                    "Confirmed": Variant("t", 0),
                    "LastOutcome": Variant("s", ""),
                    "LastReason": Variant("s", ""),
                }
            }

    def change(self, path: str, interface: str, **changed: Variant) -> None:
        """Set properties and tell everybody."""
        self.objects[path][interface].update(changed)
        self.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", interface, changed, [])

    def emit(self, path: str, interface: str, member: str, signature: str, *body: object) -> None:
        message = Message.new_signal(path, interface, member, signature, list(body))
        self._loop.call_soon_threadsafe(lambda: self._bus and self._bus.send(message))

    def start_job(self, vault: str = "home", target: str = "seed", kind: str = "sync") -> int:
        """Make a job that runs, as Sync does."""
        self._last_job += 1
        job = self._last_job
        path = names.job_path(job)
        numbers = {name: Variant("t", 0) for name in ("Requested", "BytesDone", "BytesTotal", "EntriesDone", "EntriesTotal")}
        self.objects[path] = {
            names.JOB: {
                "Id": Variant("u", job),
                "Kind": Variant("s", kind),
                "Vault": Variant("o", names.vault_path(vault)),
                "Target": Variant("o", names.target_path(vault, target)),
                "Unit": Variant("s", names.job_unit(vault)),
                "Phase": Variant("s", "starting"),
                **numbers,
            }
        }
        self.outcomes[job] = {
            "kind": Variant("s", kind),
            "vault": Variant("s", vault),
            "target": Variant("s", target),
            "outcome": Variant("s", ""),
            "reason": Variant("s", ""),
            "requested": Variant("t", 1_760_000_000_000_000),
            "started": Variant("t", 1_760_000_001_000_000),
        }
        self.emit(names.ROOT_PATH, names.MANAGER, "JobNew", "uos", job, path, vault)
        return job

    def progress(self, job: int, phase: str, done: int = 0, total: int = 0) -> None:
        self.change(names.job_path(job), names.JOB, Phase=Variant("s", phase), BytesDone=Variant("t", done), BytesTotal=Variant("t", total))

    def end_job(self, job: int, outcome: str, reason: str = "", **numbers: int) -> None:
        """End a job: its object goes, its outcome stays."""
        vault = self.outcomes[job]["vault"].value
        self.outcomes[job].update(outcome=Variant("s", outcome), reason=Variant("s", reason), ended=Variant("t", 1_760_000_063_000_000))
        self.outcomes[job].update({name: Variant("t", number) for name, number in numbers.items()})
        self.objects.pop(names.job_path(job), None)
        self.emit(names.ROOT_PATH, names.MANAGER, "JobRemoved", "uoss", job, names.job_path(job), vault, outcome)

    def forge(self, receiver: str, member: str, signature: str, *body: object) -> None:
        """Let a stranger send a signal in our name, straight to `receiver`."""

        async def send() -> None:
            stranger = await MessageBus(bus_address=self._address).connect()
            message = Message.new_signal(names.ROOT_PATH, names.MANAGER, member, signature, list(body))
            message.destination = receiver
            await stranger.send(message)
            await stranger.call(Message("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId"))
            await _gone(stranger)

        self._do(send())

    # --- the bus ---------------------------------------------------------------------------------------------------
    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    async def _own(self, name: str, answer: Callable[[MessageBus, Message], bool]) -> MessageBus:
        bus = await MessageBus(bus_address=self._address, negotiate_unix_fd=True).connect()
        bus.add_message_handler(lambda message: answer(bus, message))
        assert await bus.request_name(name) is RequestNameReply.PRIMARY_OWNER
        return bus

    def _answer(self, bus: MessageBus, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        call = _received(message)
        if call.member in self.when:
            self.when[call.member](call)
        if call.member not in self.silent:
            self._reply(bus, message, lambda: self._result(call))
        if call.member in self.then:
            self.then[call.member](call)
        self.calls.put(call)
        return True

    def _reply(self, bus: MessageBus, message: Message, work: Callable[[], Body]) -> None:
        try:
            signature, body, fds = work()
        except BusError as error:
            bus.send(Message.new_error(message, error.name, error.text))
            return
        sent = bus.send(Message.new_method_return(message, signature, body, fds))
        sent.add_done_callback(lambda _sent: _close(fds))

    def _result(self, call: Call) -> Body:
        if call.member in self.refuse:
            raise self.refuse[call.member]
        method = getattr(self, f"_{call.member}", None)
        if method is None:
            raise BusError(STANDARD_ERROR + "UnknownMethod", call.member)
        result: Body = method(call)
        return result

    def _answer_for_systemd(self, bus: MessageBus, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        call = _received(message)
        call.member = f"systemd.{call.member}"
        self._reply(bus, message, lambda: self._of_systemd(call))
        self.calls.put(call)
        return True

    def _of_systemd(self, call: Call) -> Body:
        if call.member != "systemd.Get":
            return "", [], []
        vault = call.path.partition("_40")[2].partition("_2e")[0].replace("_5f", "_")
        if call.args[1] == "ActiveState":
            return "v", [Variant("s", "active" if vault in self.next_elapse else "inactive")], []
        return "v", [Variant("t", self.next_elapse.get(vault, 2**64 - 1))], []

    # --- the methods -----------------------------------------------------------------------------------------------
    def _GetManagedObjects(self, _call: Call) -> Body:  # noqa: N802 - the bus's name for it
        return "a{oa{sa{sv}}}", [self.objects], []

    def _GetAll(self, call: Call) -> Body:  # noqa: N802
        if call.path == names.ROOT_PATH:
            return "a{sv}", [{"Version": Variant("s", "0.1.0"), "InvalidVaults": Variant("as", self.invalid)}], []
        if call.path not in self.objects:
            raise BusError(STANDARD_ERROR + "UnknownObject", "there is no such object")
        return "a{sv}", [self.objects[call.path][call.args[0]]], []

    def _GetVault(self, call: Call) -> Body:  # noqa: N802
        path = names.vault_path(call.args[0])
        if path not in self.objects:
            raise BusError(names.ERROR_PREFIX + "NoSuchVault", f"there is no vault '{call.args[0]}'")
        return "o", [path], []

    def _GetOutcome(self, call: Call) -> Body:  # noqa: N802
        if call.args[0] not in self.outcomes:
            raise BusError(names.ERROR_PREFIX + "NoSuchJob", "there is no such job")
        return "a{sv}", [self.outcomes[call.args[0]]], []

    def _OpenRecord(self, call: Call) -> Body:  # noqa: N802
        if call.args[0] not in self.records:
            raise BusError(STANDARD_ERROR + "InteractiveAuthorizationRequired")
        return "h", [0], [_memfd(self.records[call.args[0]])]

    def _ListJobs(self, call: Call) -> Body:  # noqa: N802
        jobs = sorted(self.outcomes, reverse=True)
        return "au", [jobs[: call.args[0]] if call.args[0] else jobs], []

    def _Unlock(self, call: Call) -> Body:  # noqa: N802
        if call.contents != [self.passphrase]:
            raise BusError(names.ERROR_PREFIX + "WrongPassphrase", "the passphrase does not open the vault's key file")
        self.change(call.path, names.VAULT, Locked=Variant("b", False))  # noqa: FBT003
        return "", [], []

    def _Lock(self, call: Call) -> Body:  # noqa: N802
        self.change(call.path, names.VAULT, Locked=Variant("b", True))  # noqa: FBT003
        return "", [], []

    def _Sync(self, call: Call) -> Body:  # noqa: N802
        vault = call.path.rpartition("/")[2]
        target = call.args[0] or self.objects[call.path][names.VAULT]["DefaultTarget"].value
        return "o", [names.job_path(self.start_job(vault, target))], []

    def _Restore(self, call: Call) -> Body:  # noqa: N802
        return "o", [names.job_path(self.start_job(call.path.rpartition("/")[2], call.args[0] or "seed", "restore"))], []

    def _Verify(self, call: Call) -> Body:  # noqa: N802
        return "o", [names.job_path(self.start_job(call.path.rpartition("/")[2], call.args[0] or "seed", "verify"))], []

    def _RestoreTest(self, call: Call) -> Body:  # noqa: N802
        return "o", [names.job_path(self.start_job(call.path.rpartition("/")[2], call.args[0] or "seed", "restore-test"))], []

    def _Cancel(self, _call: Call) -> Body:  # noqa: N802
        return "", [], []

    def _Reload(self, _call: Call) -> Body:  # noqa: N802
        return "", [], []


FINDINGS = (
    b'{"path": "a/b\\u001b[31m", "what": "content", "detail": "3 bytes instead of 4"}\n'
    b'{"path": "commit.json", "what": "commit", "detail": "", "own": true}\n'
    b'{"path": "x", "what": "of a newer daemon", "detail": ""}\n'
)
"""What it writes where a verification is to tell what it found."""


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _received(message: Message) -> Call:
    """Take in a call: what its descriptors hold, and which files they are."""
    interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
    call = Call(message.sender, message.path, message.member, _plain(message.body), interactive)
    for descriptor in message.unix_fds:
        status = os.fstat(descriptor)
        call.inodes.append((status.st_dev, status.st_ino))
        call.contents.append(b"" if os.path.isdir(f"/proc/self/fd/{descriptor}") else os.pread(descriptor, 100_000, 0))
        if message.member == "Verify":
            os.write(descriptor, FINDINGS)
        os.close(descriptor)
    return call


def _plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _memfd(content: bytes) -> int:
    descriptor = os.memfd_create("record")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


async def _gone(bus: MessageBus) -> None:
    bus.disconnect()  # type: ignore[no-untyped-call]
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
