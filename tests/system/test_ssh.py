# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault on another machine, over ssh."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import MakeVault, fresh_remote, fresh_vault
from .daemon import ROOT, Running, Watch
from .machine import must, offsitectl, write
from .remote import HOST, NO_RSYNC, Remote, at_remote, host_key
from .trees import census, differences, plant
from .vaults import ETC, FIRST, SECOND, Vault

KNOWN_HOSTS = ETC / "known_hosts"


@dataclass(frozen=True)
class AtRemote:
    """A vault that has been synced to the remote once."""

    vault: Vault
    remote: Remote
    authorized_keys: str

    @classmethod
    def make(cls, vault: Vault, remote: Remote, key: Path) -> "AtRemote":
        vault.snapshot()
        line = vault.init(f"vps={remote.spec}", key=key).json["authorized_keys"]
        remote.let_in(line)
        vault.synced()
        return cls(vault, remote, line)

    @property
    def public_key(self) -> str:
        return self.vault.identity.with_suffix(".pub").read_text().strip()


@pytest.fixture
def away(vault: MakeVault, remote: Remote, key: Path) -> AtRemote:
    """One for this test alone."""
    return AtRemote.make(vault(), remote, key)


@pytest.fixture(scope="module")
def hindered(canary: str, key: Path) -> Iterator[AtRemote]:
    """One that never gets any further, with a deletion waiting: whatever hinders it is put right after each test."""
    with fresh_vault(canary) as vault, fresh_remote() as remote:
        made = AtRemote.make(vault, remote, key)
        vault.next_snapshot(vault.root / FIRST, without=("one",))
        yield made


@pytest.fixture
def intact(hindered: AtRemote) -> Iterator[AtRemote]:
    """The same, put right afterwards."""
    files = [hindered.vault.file, hindered.vault.identity, KNOWN_HOSTS]
    before = [file.read_text() for file in files]
    yield hindered
    for file, content in zip(files, before, strict=True):
        write(file, content)
    hindered.vault.rewrite(before[0])
    hindered.remote.let_in(hindered.authorized_keys)


def test_a_year_in_the_life_of_a_vault(vault: MakeVault, remote: Remote, key: Path, tmp_path: Path) -> None:
    home = vault()
    first = home.root / FIRST
    plant(first)
    home.point_at(first)
    made = home.init(f"vps={remote.spec}", key=key).json
    assert home.identity.stat().st_mode & 0o777 == 0o600
    assert made["authorized_keys"].removeprefix("restrict ") == home.identity.with_suffix(".pub").read_text().strip()
    remote.let_in(made["authorized_keys"])

    home.synced()
    assert differences(census(first), home.restored(tmp_path / "first")) == []
    unchanged = remote.files()
    assert home.synced()["sent_bytes"] == 0
    assert remote.files() == unchanged

    second = home.next_snapshot(first)
    must("rm", "-r", second / "names" / "-rf", second / "nodes")
    (second / "new").write_text("new")
    assert home.synced()["deleted_entries"] > 0
    assert differences(census(second), home.restored(tmp_path / "second")) == []
    some = home.restored(tmp_path / "some", "links/elsewhere", "new")
    assert {path for path in some if b"/" not in path} == {b"", b"links", b"new"}


def test_stock_gocryptfs_alone_reads_the_target(away: AtRemote, tmp_path: Path) -> None:
    """As the manual tells it, offsited-target(7): fetch, gocryptfs, copy. All that gocryptfs can show is there, without the manifest."""
    second = away.vault.next_snapshot(away.vault.root / FIRST)
    plant(second / "tree")
    away.vault.synced()
    fetched, clear, restored = (tmp_path / name for name in ("fetched", "clear", "restored"))
    clear.mkdir()
    must("rsync", "-aH", "--numeric-ids", f"admin:{away.remote.directory}/current/", fetched)
    must("gocryptfs", "-q", "-ro", "-passfile", "/dev/stdin", "--", fetched, clear, stdin=away.vault.passphrase)
    try:
        must("rsync", "-aH", "--numeric-ids", f"{clear}/backup/", restored)
    finally:
        must("umount", clear)
    assert differences(census(second), census(restored)) == []


def test_the_users_own_ssh_configuration_is_not_read(away: AtRemote) -> None:
    """It sends the remote's name nowhere, and knows another host key: none of that matters."""
    config = Path("/root/.ssh/config")
    before = config.read_text()
    try:
        config.write_text(f"Host {HOST}\nHostName 127.0.0.1\nPort 1\n{before}")
        away.vault.synced()
    finally:
        config.write_text(before)


def _other_key(_away: AtRemote) -> None:
    at_remote("rm /root/.ssh/authorized_keys")


def _unknown_host_key(_away: AtRemote) -> None:
    write(KNOWN_HOSTS, "")


def _changed_host_key(away: AtRemote) -> None:
    kind, key = away.public_key.split()[:2]
    write(KNOWN_HOSTS, f"{HOST} {kind} {key}\n")


def _nobody_listens(away: AtRemote) -> None:
    away.vault.set_target("port = 9")
    write(KNOWN_HOSTS, host_key().replace(HOST, f"[{HOST}]:9"))


def _no_such_host(away: AtRemote) -> None:
    away.vault.edit(f"root@{HOST}", "root@no-such-host.invalid")


def _no_rsync(away: AtRemote) -> None:
    away.remote.let_in(f"{NO_RSYNC},{away.authorized_keys}")


def _no_identity(away: AtRemote) -> None:
    away.vault.identity.unlink()


@pytest.mark.parametrize(
    ("arrange", "status", "words"),
    [
        (_other_key, 5, "authorized_keys: {identity}.pub"),
        (_no_identity, 5, "{identity}"),
        (_unknown_host_key, 5, "Add it to /etc/offsited/known_hosts"),
        (_changed_host_key, 5, "CHANGED"),
        (_nobody_listens, 5, "Check network, host and port of target vps"),
        (_no_such_host, 5, "Check network, host and port of target vps"),
        (_no_rsync, 7, "Install rsync on both sides"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_what_hinders_a_sync(intact: AtRemote, arrange: Callable[[AtRemote], None], status: int, words: str) -> None:
    """The exit status says what kind of trouble, the message what to do, and no byte at the target changes."""
    before = intact.remote.census()
    arrange(intact)
    ended = intact.vault.sync()
    assert ended.status == status, ended.told
    assert words.format(identity=intact.vault.identity) in ended.told
    assert intact.remote.census() == before

    restored = offsitectl("restore", intact.vault.name, "--to", intact.vault.root / "restored")
    assert restored.status == status, restored.told


def test_a_host_that_is_back_is_synced_to(away: AtRemote, tmp_path: Path) -> None:
    """sshd is stopped and started again; the state of the target is told."""
    second = away.vault.next_snapshot(away.vault.root / FIRST, without=("one",))
    at_remote("systemctl stop ssh.service ssh.socket")
    try:
        assert away.vault.sync().status == 5
        assert offsitectl("status", away.vault.name, "--json").json["vaults"][0]["targets"][0]["state"] == "absent"
    finally:
        at_remote("systemctl start ssh.service")
    away.vault.synced()
    assert offsitectl("status", away.vault.name, "--json").json["vaults"][0]["targets"][0]["state"] == "present"
    assert differences(census(second), away.vault.restored(tmp_path / "to")) == []


def test_a_connection_that_breaks_is_taken_up_again(away: AtRemote, tmp_path: Path) -> None:
    """The remote's end of the connection is killed while it sends: that may pass, so the same job tries again and is done."""
    second = away.vault.next_snapshot(away.vault.root / FIRST, bulk=300_000, without=("one",))
    with away.vault.slow_sync() as job:
        at_remote("pkill -KILL --full 'rsync --server'")
        assert job.end()["outcome"] == "done"
    assert differences(census(second), away.vault.restored(tmp_path / "to")) == []


def test_a_directory_that_is_somebody_elses_is_left_alone(vault: MakeVault, remote: Remote, key: Path) -> None:
    home = vault()
    home.snapshot(SECOND)
    remote.let_in(home.init(f"vps={remote.spec}", key=key).json["authorized_keys"])
    at_remote(f"mkdir {remote.directory} && echo precious > {remote.directory}/file")
    before = remote.census()
    ended = home.sync()
    assert ended.status == 1
    assert "not empty" in ended.told
    assert remote.census() == before


def test_a_timed_sync_waits_for_a_host_that_is_not_there_yet(away: AtRemote) -> None:
    """As after a boot or a resume. A person's sync says at once what is wrong."""
    at_remote("systemctl stop ssh.socket ssh.service")
    try:
        assert away.vault.sync().json["reason"] == "target-unreachable"
        with Watch() as watch:
            ended = away.vault.sync("--timed", "--no-block")
            assert ended.status == 0, ended.told
            watch.until_changed(f"{ROOT}/jobs/{ended.json['job']}", Phase="waiting")
            at_remote("systemctl start ssh.service")
            assert Running(watch, int(ended.json["job"]), away.vault.name).end()["outcome"] == "done"
    finally:
        at_remote("systemctl start ssh.service")
