# SPDX-License-Identifier: GPL-3.0-or-later
"""Users without rights: they may look, and may not act, unless a polkit rule says so. A flood of theirs hurts nobody."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bus.peer import close, marshalled
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from .conftest import fresh_disk, fresh_vault
from .daemon import INTERACTIVE, JOB, MANAGER, ROOT, SERVICE, VAULT, connect, main_pid, objects, request
from .machine import must, offsitectl, shown, write
from .vaults import BULK, OnDisk

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
WOULD_ASK = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
RULE = Path("/etc/polkit-1/rules.d/50-offsited-test.rules")


@pytest.fixture
def rule() -> Iterator[None]:
    """The group `users` may sync, and nothing else."""
    text = """
        polkit.addRule(function(action, subject) {
            if (action.id == "org.offsited.Offsite1.sync" && subject.isInGroup("users")) return polkit.Result.YES;
        });
    """
    write(RULE, text, 0o644)
    must("systemctl", "restart", "polkit.service")
    yield
    RULE.unlink()
    must("systemctl", "restart", "polkit.service")


def test_everybody_may_look(home: OnDisk, user: pwd.struct_passwd) -> None:
    home.vault.synced()
    for command in (("list",), ("status",), ("status", home.vault.name), ("history", home.vault.name)):
        seen = offsitectl(*command, "--json", user=user.pw_name)
        assert seen.status == 0, seen.told
        assert home.vault.name in seen.stdout
    with connect(user.pw_uid) as peer:
        answer = peer.ask(request(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"))
        assert home.vault.path in answer.body[0]


@pytest.fixture(scope="module")
def untouchable(canary: str, key: Path) -> Iterator[OnDisk]:
    """A vault that nobody gets to act on, so that all may share it."""
    with fresh_disk() as disk, fresh_vault(canary) as vault:
        home = OnDisk(vault, disk, key)
        vault.synced()
        yield home


@pytest.mark.parametrize(
    "command",
    [
        ("sync", "{vault}"),
        ("cancel", "{vault}"),
        ("lock", "{vault}"),
        ("unlock", "{vault}", "--passphrase-file", "-"),
        ("restore", "{vault}", "--to", "/home/{user}/to"),
        ("init", "another", "--source", "path:/srv", "--target", "a=disk:LABEL=A"),
        ("change-passphrase", "{vault}", "--passphrase-file", "-"),
        ("unlock", "{vault}", "--enroll", "--passphrase-file", "-"),
        ("recovery-kit", "{vault}", "--passphrase-file", "-"),
        ("recovery-kit", "{vault}", "--confirm"),
        ("restore-key", "{vault}", "--from", "/etc/hostname", "--passphrase-file", "-"),
        ("check-config",),
    ],
    ids=lambda command: command[0],
)
def test_nobody_may_act(untouchable: OnDisk, user: pwd.struct_passwd, command: tuple[str, ...]) -> None:
    home = untouchable
    words = [word.format(vault=home.vault.name, user=user.pw_name) for word in command]
    refused = offsitectl(*words, stdin=home.vault.passphrase, user=user.pw_name)
    assert refused.status == 9, refused.told
    assert "sudo" in refused.stderr
    assert not home.vault.is_locked()
    assert not list(Path(f"/home/{user.pw_name}").glob("to/*"))


@pytest.mark.parametrize(
    ("interface", "member", "signature", "arguments"),
    [
        (VAULT, "Sync", "sa{sv}", ("", {})),
        (VAULT, "Cancel", "a{sv}", ({},)),
        (VAULT, "Lock", "a{sv}", ({},)),
        (VAULT, "Unlock", "ha{sv}", (0, {})),
        (VAULT, "FetchPassphrase", "a{sv}", ({},)),
        (VAULT, "Restore", "shha{sv}", ("", 0, 0, {})),
        (MANAGER, "Reload", "a{sv}", ({},)),
        (MANAGER, "OpenRecord", "ua{sv}", (1, {})),
    ],
)
def test_each_verb_is_refused_on_the_bus(
    untouchable: OnDisk, user: pwd.struct_passwd, interface: str, member: str, signature: str, arguments: tuple[Any, ...]
) -> None:
    path = ROOT if interface == MANAGER else untouchable.vault.path
    _refused(user, path, interface, member, signature, *arguments)
    assert not untouchable.vault.is_locked()


def test_a_running_job_is_not_anybodys_to_cancel(home: OnDisk, user: pwd.struct_passwd) -> None:
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        _refused(user, job.path, JOB, "Cancel", "a{sv}", {})
        _refused(user, home.vault.path, VAULT, "Cancel", "a{sv}", {})
        assert job.path in objects()
        assert job.end()["outcome"] == "done"


def _refused(user: pwd.struct_passwd, path: str, interface: str, member: str, signature: str, *arguments: Any) -> None:
    """Without the caller's leave to ask nobody is asked; with it there is nobody who could be."""
    fds = [os.memfd_create("anything")] if "h" in signature else []
    with connect(user.pw_uid) as peer:
        assert peer.error(request(path, interface, member, signature, *arguments, fds=fds))[0] == WOULD_ASK
        assert peer.error(request(path, interface, member, signature, *arguments, fds=fds, flags=INTERACTIVE))[0] == DENIED
    for descriptor in fds:
        os.close(descriptor)


def test_a_polkit_rule_lets_a_group_sync(home: OnDisk, user: pwd.struct_passwd, rule: None) -> None:
    assert offsitectl("sync", home.vault.name, user=user.pw_name).status == 9
    must("usermod", "--append", "--groups", "users", user.pw_name)
    try:
        must("systemctl", "restart", "polkit.service")
        synced = offsitectl("sync", home.vault.name, "--json", user=user.pw_name)
        assert (synced.status, synced.json["outcome"]) == (0, "done"), synced.told
        assert offsitectl("lock", home.vault.name, user=user.pw_name).status == 9
    finally:
        must("gpasswd", "--delete", user.pw_name, "users")


def _descriptors() -> int:
    return len(list(Path(f"/proc/{main_pid()}/fd").iterdir()))


def test_a_flood_of_calls_ends_nothing(home: OnDisk, user: pwd.struct_passwd) -> None:
    """1,500 calls at once by a user who does not read the answers, 600 signals at once to a reader, and everybody is served."""
    pid, open_before, restarts = main_pid(), _descriptors(), shown(SERVICE, "NRestarts")
    with connect(user.pw_uid) as deaf, connect(user.pw_uid) as reader:
        for _ in range(1500):
            deaf.send(request(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"))
        assert home.vault.synced()["outcome"] == "done"
        serials = {reader.send(request(ROOT, MANAGER, "GetVault", "s", home.vault.name)) for _ in range(1500)}
        assert {reader.answer().reply_serial for _ in range(1500)} == serials
        assert reader.ask(request(ROOT, MANAGER, "GetVault", "s", home.vault.name)).message_type is MessageType.METHOD_RETURN
    assert home.vault.path in objects()
    assert (main_pid(), shown(SERVICE, "NRestarts")) == (pid, restarts)
    assert _descriptors() == open_before
    assert not home.vault.is_locked()


def test_a_flood_of_descriptors_leaks_none(home: OnDisk, user: pwd.struct_passwd) -> None:
    """1,000 calls with a descriptor: to methods that take one, that take none, and that do not exist."""
    pid, open_before = main_pid(), _descriptors()
    calls = (
        request(home.vault.path, VAULT, "Unlock", "ha{sv}", 0, {}),
        request(home.vault.path, VAULT, "NoSuch", "h", 0),
        request(ROOT, MANAGER, "GetVault", "s", home.vault.name),
        request(f"{ROOT}/nowhere", MANAGER, "GetVault", "h", 0),
    )
    descriptor = os.open("/dev/null", os.O_RDONLY)
    with connect(user.pw_uid) as peer:
        for number in range(1000):
            message = calls[number % len(calls)]
            message.unix_fds = [descriptor]
            close_answer = peer.ask(message)
            assert close_answer.reply_serial
            close(close_answer)
    os.close(descriptor)
    assert home.vault.path in objects()
    assert (main_pid(), _descriptors()) == (pid, open_before)


def test_signals_of_a_stranger_are_not_believed(home: OnDisk, user: pwd.struct_passwd) -> None:
    """A user says, in systemd's words, that the job's unit has ended. The job goes on and is done."""
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job, connect(user.pw_uid) as liar:
        systemd = "org.freedesktop.systemd1"
        path = must("busctl", "call", systemd, "/org/freedesktop/systemd1", f"{systemd}.Manager", "GetUnit", "s", job.unit).split('"')[1]
        owner = must("busctl", "call", *_driver("GetNameOwner"), "s", "org.offsited.Offsite1").split('"')[1]
        inactive: dict[str, Variant] = {"ActiveState": Variant("s", "inactive")}
        manager = "/org/freedesktop/systemd1", f"{systemd}.Manager"
        lies: list[tuple[str, str, str, str, list[Any]]] = [
            (*manager, "JobRemoved", "uoss", [1, path, job.unit, "done"]),
            (*manager, "UnitRemoved", "so", [job.unit, path]),
            (path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", [f"{systemd}.Unit", inactive, []]),
        ]
        for place, interface, member, signature, body in lies:
            lie = Message(
                message_type=MessageType.SIGNAL,
                destination=owner,
                path=place,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
                serial=liar.next_serial(),
            )
            liar.send_bytes(marshalled(lie))
        liar.ask(request(ROOT, MANAGER, "GetVault", "s", home.vault.name))
        assert job.path in objects()
        assert job.end()["outcome"] == "done"


def _driver(member: str) -> tuple[str, str, str, str]:
    return "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member
