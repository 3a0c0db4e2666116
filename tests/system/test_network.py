# SPDX-License-Identifier: GPL-3.0-or-later
"""What networks and hosts do to a sync that is under way: within two minutes it is done or says what is wrong, and nothing is lost."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import MakeVault
from .machine import Ended, must, run, write
from .relay import Relay, relay
from .remote import HOST, HOST_ADDRESS, Remote, at_remote, host_key
from .trees import census, copy_linked, differences
from .vaults import ETC, FIRST, SECOND, Vault

KNOWN_HOSTS = ETC / "known_hosts"
WITHIN = 120.0
"""Seconds in which a person knows."""
FILES, SIZE = 30, 200_000
BEGUN = 1_000_000
"""Bytes after which a sync is in the midst of it."""


@dataclass
class Away:
    """A vault that has been synced over a line once, and has a snapshot to send that takes some seconds."""

    vault: Vault
    remote: Remote
    line: Relay

    @property
    def first(self) -> Path:
        return self.vault.root / FIRST

    @property
    def second(self) -> Path:
        return self.vault.root / SECOND

    def sync(self) -> Ended:
        return run("offsitectl", "sync", self.vault.name, "--json", patience=WITHIN)

    @contextmanager
    def syncing(self) -> Iterator[list[Ended]]:
        """Within: a sync is in the midst of sending. Afterwards it has ended, and the list has how."""
        ended: list[Ended] = []
        thread = threading.Thread(target=lambda: ended.append(self.sync()))
        before = self.line.up.passed
        thread.start()
        try:
            self.line.until_sent(BEGUN)
            yield ended
        finally:
            thread.join()
        assert ended, f"it did not end within {WITHIN:.0f} seconds"
        assert self.line.up.passed > before

    def holds(self, snapshot: Path, to: Path) -> None:
        """What a restore brings back is this snapshot."""
        assert differences(census(snapshot), self.vault.restored(to)) == []


def make(vault: Vault, remote: Remote, key: Path, line: Relay) -> Away:
    made = Away(vault, remote, line)
    vault.snapshot()
    remote.let_in(vault.init(f"vps=ssh:root@127.0.0.1:{line.port}{remote.directory}", key=key).json["authorized_keys"])
    write(KNOWN_HOSTS, line.known + host_key())
    vault.synced()
    copy_linked(made.first, made.second)
    (made.second / "one").unlink()
    for number in range(FILES):
        (made.second / f"bulk-{number}").write_bytes(os.urandom(SIZE))
    vault.point_at(made.second)
    vault.set_target('bandwidth = "1M"')
    return made


@pytest.fixture
def away(vault: MakeVault, remote: Remote, key: Path) -> Iterator[Away]:
    with relay() as line:
        yield make(vault(), remote, key, line)


def test_a_line_that_is_cut_is_taken_up_again_and_little_is_sent_twice(away: Away, tmp_path: Path) -> None:
    before = away.line.up.passed
    with away.syncing() as ended:
        away.line.cut()
        away.line.until_sent(BEGUN)
        away.line.cut()
    assert ended[0].json["outcome"] == "done", ended[0].told
    once = FILES * SIZE
    assert away.line.up.passed - before <= once * 1.05 + 2 * SIZE
    away.holds(away.second, tmp_path / "to")


def _trickles(up: int | None, down: int | None) -> Callable[[Away], None]:
    return lambda away: away.line.set(up=up, down=down)


def _is_refused(away: Away) -> None:
    away.line.close()
    away.line.cut()


def _stands_still(_away: Away) -> None:
    """sshd and all that it has started, but for our own way in."""
    at_remote("systemctl kill --signal=STOP ssh.service 'session-*.scope'")


TROUBLES: dict[str, Callable[[Away], None]] = {
    "refused": _is_refused,
    "1 B/s up": _trickles(1, None),
    "held back": _trickles(0, 0),
    "1 B/s": _trickles(1, 1),
    "sshd stopped": _stands_still,
}
ALL = bool(os.environ.get("OFFSITED_NETWORK"))
"""Each takes the two minutes after which a line is given up: every run has the first, and a restore's; a campaign has all."""
CHOSEN = list(TROUBLES)[: None if ALL else 1]


@pytest.mark.parametrize("trouble", [TROUBLES[name] for name in CHOSEN], ids=CHOSEN)
def test_a_line_or_a_host_that_fails_for_good(away: Away, trouble: Callable[[Away], None], tmp_path: Path) -> None:
    """Exit status 5 in time. Once it is over, the target holds the old snapshot, and the next sync sends only what is missing.

    1 B/s down alone is no such trouble: each byte that says that there is room lets thousands go up. For a restore it is one, see below.
    """
    try:
        with away.syncing() as ended:
            trouble(away)
    finally:
        at_remote("systemctl kill --signal=CONT ssh.service 'session-*.scope' || true")
    assert (ended[0].status, ended[0].json["reason"]) == (5, "target-unreachable"), ended[0].told
    with relay() as better:
        away.vault.edit(f"^port = {away.line.port}$", f"port = {better.port}")
        write(KNOWN_HOSTS, better.known)
        away.holds(away.first, tmp_path / "old")
        before = better.up.passed
        away.vault.synced()
        assert better.up.passed - before <= FILES * SIZE * 1.05 + SIZE - BEGUN / 2
        away.holds(away.second, tmp_path / "new")


@pytest.mark.skipif(not ALL, reason="takes two minutes: OFFSITED_NETWORK=1")
def test_a_host_that_is_gone_without_a_word(away: Away, tmp_path: Path) -> None:
    """Half-open: what is sent to it vanishes, and nothing comes back."""
    away.vault.edit("root@127.0.0.1", f"root@{HOST}")
    away.vault.edit(rf"^port = {away.line.port}\n", "")
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(away.sync()))
    thread.start()
    try:
        at_remote(f"until test $(du -s {away.remote.directory} | cut -f 1) -gt 1000; do sleep 0.1; done")
        must("ip", "neigh", "replace", HOST_ADDRESS, "lladdr", "02:00:00:00:00:99", "dev", "net0", "nud", "permanent")
        thread.join()
    finally:
        must("ip", "neigh", "del", HOST_ADDRESS, "dev", "net0")
        thread.join()
    assert (ended[0].status, ended[0].json["reason"]) == (5, "target-unreachable"), ended[0].told
    away.holds(away.first, tmp_path / "old")
    away.vault.synced()
    away.holds(away.second, tmp_path / "new")


def test_a_restore_over_a_line_that_trickles(away: Away, tmp_path: Path) -> None:
    away.vault.edit('^bandwidth = "1M"\n', "")
    away.vault.synced()
    away.line.set(up=None, down=1)
    ended = run("offsitectl", "restore", away.vault.name, "--to", tmp_path / "to", "--json", patience=WITHIN)
    assert (ended.status, ended.json["reason"]) == (5, "target-unreachable"), ended.told
    away.line.set(up=None, down=None)
    away.holds(away.second, tmp_path / "to")
