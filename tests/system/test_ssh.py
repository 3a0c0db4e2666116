# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault on another machine, over ssh."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import MakeDisk, MakeVault, fresh_remote, fresh_vault
from .daemon import ROOT, Running, Watch
from .machine import must, offsitectl, run, write
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


def _old_rsync(away: AtRemote) -> None:
    """As Ubuntu 22.04 had it at first."""
    script = '#!/bin/sh\n[ "$1" = --version ] || exec rsync "$@"\necho "rsync  version 3.2.3  protocol version 31"\n'
    at_remote("cat > /srv/old-rsync && chmod 755 /srv/old-rsync", script)
    away.vault.set_target('rsync_options = ["--rsync-path=/srv/old-rsync"]')


def _another_command(away: AtRemote) -> None:
    away.remote.let_in(f'command="/bin/false",{away.authorized_keys}')


def _a_talkative_login(away: AtRemote) -> None:
    away.remote.let_in(f'command="echo Welcome",{away.authorized_keys}')


def _no_rsync(away: AtRemote) -> None:
    away.remote.let_in(f"{NO_RSYNC},{away.authorized_keys}")


def _no_identity(away: AtRemote) -> None:
    away.vault.identity.unlink()


@pytest.mark.parametrize(
    ("arrange", "status", "words"),
    [
        (_other_key, 5, "authorized_keys: {identity}.pub"),
        (_no_identity, 5, "{identity}"),
        (_unknown_host_key, 5, "offsitectl target trust"),
        (_changed_host_key, 5, "CHANGED"),
        (_nobody_listens, 5, "Check network, host and port of target vps"),
        (_no_such_host, 5, "Check network, host and port of target vps"),
        (_no_rsync, 7, "Install rsync on both sides"),
        (_another_command, 7, "Does the login at target vps run what it is given"),
        (_a_talkative_login, 7, "Does the login at target vps run what it is given"),
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


def test_an_rsync_that_is_too_old_is_not_written_to_and_is_restored_from(intact: AtRemote, tmp_path: Path) -> None:
    before = intact.remote.census()
    _old_rsync(intact)
    ended = intact.vault.sync()
    assert (ended.status, ended.json["reason"]) == (7, "rsync-too-old")
    assert "3.2.3" in ended.told
    assert intact.remote.census() == before
    assert differences(census(intact.vault.root / FIRST), intact.vault.restored(tmp_path / "to")) == []


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


def limited(line: str, directory: str) -> str:
    """A line for authorized_keys, limited by rrsync as offsited-vault(5) says."""
    options, _, key = line.partition(" ")
    return f'{options},command="rrsync -no-lock {directory}" {key}'


def test_a_key_that_is_limited_by_rrsync(vault: MakeVault, remote: Remote, key: Path, tmp_path: Path) -> None:
    """Debian's own: a sync with deletions, a comparison of everything, verify, restore, and nothing outside of its directory."""
    home = vault()
    first = home.root / FIRST
    plant(first)
    home.point_at(first)
    at_remote(f"mkdir {remote.directory}")
    inside = Remote(f"{remote.directory}/inside")
    made = home.init(f"vps={inside.spec}", key=key).json
    line = limited(made["authorized_keys"], remote.directory)
    assert any(step.endswith(line) for step in made["next"]), "init prints that very line"
    remote.let_in(line)
    assert home.sync().status == 1, "without the setting its own directory is not found in there"
    home.set_target(f'rrsync = "{remote.directory}"')
    home.synced()
    assert {path.partition("/")[0] for path in inside.files()} - {""} == {"current", "partial", "offsited.json"}
    assert differences(census(first), home.restored(tmp_path / "first")) == []

    second = home.next_snapshot(first, bulk=300_000)
    must("rm", "-r", second / "nodes")
    with home.slow_sync() as job:
        at_remote("pkill -KILL --full 'rsync --server'")
        assert job.end()["outcome"] == "done"
    home.synced("--reconcile")
    assert offsitectl("verify", home.name, "--level", "data").status == 0
    assert differences(census(second), home.restored(tmp_path / "second")) == []
    login = ["-F", "none", "-i", str(home.identity), f"-oUserKnownHostsFile={KNOWN_HOSTS}", "-oBatchMode=yes", f"root@{HOST}"]
    assert "rrsync error" in run("ssh", *login, "id").told


def test_a_limited_key_that_the_vault_file_does_not_speak_of_loses_nothing_in_silence(vault: MakeVault, remote: Remote, key: Path) -> None:
    """rrsync leaves fifos out without an error. Such a sync is not done."""
    home = vault()
    first = home.snapshot()
    must("mkfifo", first / "fifo")
    at_remote(f"mkdir {remote.directory}")
    line = home.init(f"vps=ssh:root@{HOST}/inside", key=key).json["authorized_keys"]
    remote.let_in(limited(line, remote.directory))
    ended = home.sync()
    assert (ended.status, ended.json["reason"]) == (1, "rsync-partial")
    assert "rrsync" in ended.told
    assert "commit" not in ended.json or not ended.json["commit"]


KEEPER = "keeper"
"""An account at the remote without any rights."""


@pytest.fixture
def keeper(remote: Remote) -> Iterator[Remote]:
    """A directory of its own at the remote; `let_in` must be told that it is another account's."""
    at_remote(f"useradd --create-home {KEEPER} && install -d -o {KEEPER} {remote.directory}")
    yield remote
    at_remote(f"userdel --force --remove {KEEPER}")


def let_keeper_in(line: str) -> None:
    at_remote(f"install -d -o {KEEPER} -m 700 ~{KEEPER}/.ssh && cat > ~{KEEPER}/.ssh/authorized_keys", f"{line}\n")


@pytest.mark.parametrize("by_rrsync", [False, True], ids=["plain", "rrsync"])
def test_an_account_without_rights_keeps_owners_and_nodes(
    vault: MakeVault, keeper: Remote, key: Path, tmp_path: Path, *, by_rrsync: bool
) -> None:
    """By --fake-super; a restore brings them back by a pull."""
    home = vault()
    first = home.root / FIRST
    plant(first)
    home.point_at(first)
    line = home.init(f"vps=ssh:{KEEPER}@{HOST}{keeper.directory}/inside", key=key).json["authorized_keys"]
    let_keeper_in(limited(line, keeper.directory) if by_rrsync else line)
    home.set_target('rsync_options = ["-M--fake-super"]')
    if by_rrsync:
        home.set_target(f'rrsync = "{keeper.directory}"')
    home.synced()
    assert at_remote(f"find {keeper.directory} ! -user {KEEPER}") == ""
    assert differences(census(first), home.restored(tmp_path / "to")) == []
    assert offsitectl("verify", home.name, "--level", "data").status == 0
    assert home.synced("--reconcile")["sent_bytes"] == 0


def test_an_account_without_rights_that_drops_nodes_is_not_green(vault: MakeVault, keeper: Remote, key: Path) -> None:
    home = vault()
    must("mknod", home.snapshot() / "null", "c", "1", "3")
    let_keeper_in(home.init(f"vps=ssh:{KEEPER}@{HOST}{keeper.directory}/inside", key=key).json["authorized_keys"])
    ended = home.sync()
    assert (ended.status, ended.json["reason"]) == (1, "rsync-partial")
    assert "-M--fake-super" in ended.told


def commits(vault: Vault) -> dict[str, int]:
    """The job that made the commit of each target, 0 = there is none."""
    targets = offsitectl("status", vault.name, "--json").json["vaults"][0]["targets"]
    return {target["name"]: target["commit_job"] for target in targets}


def test_of_several_targets_each_has_its_own_commit(vault: MakeVault, disk: MakeDisk, remote: Remote, key: Path, tmp_path: Path) -> None:
    """One that fails, whichever it is, does not keep the others from theirs, and catches up later."""
    home, place = vault(), disk()
    first = home.snapshot()
    targets = (f"vps=ssh:root@{HOST}{remote.directory}", f"seed=disk:UUID={place.uuid}")
    remote.let_in("")
    line = home.init(*targets, key=key).json["authorized_keys"]
    assert home.sync("--all").status == 5
    seeded = commits(home)["seed"]
    assert commits(home) == {"vps": 0, "seed": seeded}
    second = home.next_snapshot(first, without=("one",))
    remote.let_in(line)
    default = home.synced()
    assert default["target"] == "vps"
    place.detach()
    assert home.sync("--all").status == 5
    assert commits(home) == {"vps": default["job"], "seed": seeded}
    place.attach()
    assert differences(census(first), home.restored(tmp_path / "seed", target="seed")) == []
    assert differences(census(second), home.restored(tmp_path / "vps", target="vps")) == []
    home.synced("--all")
    assert differences(census(second), home.restored(tmp_path / "later", target="seed")) == []
