# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon as seen on the system bus, by a client that shares no code with it."""

from collections.abc import Sequence
from typing import Any, Self

from bus.peer import DRIVER, Peer
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from .machine import PATIENCE, shown

ADDRESS = "unix:path=/run/dbus/system_bus_socket"
NAME = "org.offsited.Offsite1"
ROOT = "/org/offsited/Offsite1"
MANAGER, VAULT, TARGET, JOB = (f"{NAME}.{word}" for word in ("Manager", "Vault", "Target", "Job"))
PROPERTIES = "org.freedesktop.DBus.Properties"
SERVICE = "offsited.service"
INTERACTIVE = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION


def vault_path(vault: str) -> str:
    return f"{ROOT}/vaults/{vault}"


def target_path(vault: str, target: str) -> str:
    return f"{ROOT}/vaults/{vault}/targets/{target}"


def connect(uid: int = 0) -> Peer:
    """A connection to the system bus, as this user."""
    peer = Peer(ADDRESS, uid=uid)
    peer.sock.settimeout(PATIENCE)
    return peer


def request(path: str, interface: str, member: str, signature: str = "", *args: Any, fds: Sequence[int] = (), **header: Any) -> Message:
    """A call of the daemon."""
    return Message(
        destination=NAME,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=list(args),
        unix_fds=list(fds),
        **header,
    )


def call(path: str, interface: str, member: str, signature: str = "", *args: Any) -> list[Any]:
    """Call a method as root and return its results, in plain values."""
    with connect() as peer:
        answer = peer.ask(request(path, interface, member, signature, *args))
        assert answer.message_type is MessageType.METHOD_RETURN, (answer.error_name, answer.body)
        return [plain(value) for value in answer.body]


def get(path: str, interface: str, name: str) -> Any:
    """A property."""
    return call(path, PROPERTIES, "Get", "ss", interface, name)[0]


def objects() -> dict[str, dict[str, dict[str, Any]]]:
    """Everything on the bus."""
    found: dict[str, dict[str, dict[str, Any]]] = call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")[0]
    return found


def outcome(job: int) -> dict[str, Any]:
    """How a job ended, or that it runs."""
    found: dict[str, Any] = call(ROOT, MANAGER, "GetOutcome", "u", job)[0]
    return found


def main_pid() -> int:
    """The daemon's process; 0 = it does not run."""
    return int(shown(SERVICE, "MainPID"))


def plain(value: Any) -> Any:
    """A value without dbus-next's wrapping."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


class Watch:
    """What the daemon signals, from when this was made. Its connection asks nothing, so that nothing is passed over."""

    def __init__(self) -> None:
        self._peer = connect()
        self._peer.follow(f"type='signal',path_namespace='{ROOT}'")
        self._peer.follow(f"type='signal',sender='{DRIVER}',interface='{DRIVER}',member='NameOwnerChanged',arg0='{NAME}'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.sock.close()

    def any(self) -> Message:
        """The next signal."""
        while (message := self._peer.receive()).message_type is not MessageType.SIGNAL:
            pass
        return message

    def next(self, member: str) -> Message:
        """The next signal of a name."""
        return self._peer.signal(member)

    def until_gone(self) -> None:
        """Wait until nobody owns the name."""
        while self.next("NameOwnerChanged").body[2]:
            pass

    def until_back(self) -> None:
        """Wait until a daemon owns the name that was not there before."""
        while not self.next("NameOwnerChanged").body[2]:
            pass

    def until_removed(self, vault: str) -> int:
        """Wait until a job of a vault has ended, and return its number."""
        while (body := self.next("JobRemoved").body)[2] != vault:
            pass
        return int(body[0])

    def until_changed(self, path: str, **wanted: object) -> None:
        """Wait until properties of an object were signalled with these values."""
        while True:
            signal = self.next("PropertiesChanged")
            changed = plain(signal.body[1])
            if signal.path == path and all(changed.get(name) == value for name, value in wanted.items()):
                return


class Running:
    """A job from when it was asked for."""

    def __init__(self, watch: Watch, number: int, vault: str) -> None:
        self.watch = watch
        self.number = number
        self.vault = vault
        self.path = f"{ROOT}/jobs/{number}"
        self.unit = f"offsited-job-{vault}.service"

    def until_sending(self) -> None:
        """Wait until bytes of files are on their way; the job must not end before."""
        while True:
            signal = self.watch.any()
            assert signal.member != "JobRemoved" or signal.body[0] != self.number, outcome(self.number)
            changed = plain(signal.body[1]) if (signal.path, signal.member) == (self.path, "PropertiesChanged") else {}
            if changed.get("Phase") == "sending" and changed.get("BytesDone", 0) > 0:
                return

    def end(self) -> dict[str, Any]:
        """Wait for the end and return how it was."""
        found = outcome(self.number)
        while not found["outcome"]:
            self.watch.next("JobRemoved")
            found = outcome(self.number)
        return found
