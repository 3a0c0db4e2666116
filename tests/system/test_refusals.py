# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a sync from running: its exit status, a message that says what to do, and no byte changed at the target."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import MakeDisk, MakeVault, fresh_disk, fresh_vault
from .machine import must, offsitectl, write
from .vaults import ETC, FIRST, SNAPSHOTS, OnDisk

SETTINGS = ETC / "offsited.toml"


@pytest.fixture(scope="module")
def settled(canary: str, key: Path) -> Iterator[OnDisk]:
    """A vault that has been synced once, with a deletion waiting. No sync here gets any further, so all may share it."""
    with fresh_disk() as disk, fresh_vault(canary) as vault:
        home = OnDisk(vault, disk, key)
        vault.synced()
        vault.next_snapshot(home.first, without=("one",))
        yield home


@pytest.fixture
def home(settled: OnDisk) -> Iterator[OnDisk]:
    """The same, put right afterwards."""
    text = settled.vault.file.read_text()
    key_file = (settled.vault.directory / "plain" / ".gocryptfs.reverse.conf").read_bytes()
    saved = settled.vault.root.with_suffix(".saved")
    must("cp", "-a", settled.vault.root, saved)
    yield settled
    shutil.rmtree(settled.vault.root)
    saved.rename(settled.vault.root)
    SETTINGS.unlink(missing_ok=True)
    (settled.vault.directory / "plain" / ".gocryptfs.reverse.conf").unlink(missing_ok=True)
    (settled.vault.directory / "plain" / ".gocryptfs.reverse.conf").write_bytes(key_file)
    settled.vault.rewrite(text)
    settled.disk.detach()
    settled.disk.attach()
    assert settled.vault.unlock().status == 0


def _no_lastdst(home: OnDisk) -> None:
    home.vault.lastdst.unlink()


def _empty_lastdst(home: OnDisk) -> None:
    home.vault.lastdst.write_text("")


def _lastdst_of_two_lines(home: OnDisk) -> None:
    home.vault.lastdst.write_text(f"{home.first}\n{home.second}\n")


def _relative_lastdst(home: OnDisk) -> None:
    home.vault.lastdst.write_text(f"{FIRST}\n")


def _huge_lastdst(home: OnDisk) -> None:
    home.vault.lastdst.write_text("/" + "x" * 100_000)


def _lastdst_is_a_link(home: OnDisk) -> None:
    real = home.vault.lastdst.rename(home.vault.root / "real")
    home.vault.lastdst.symlink_to(real)


def _lastdst_is_a_fifo(home: OnDisk) -> None:
    home.vault.lastdst.unlink()
    must("mkfifo", home.vault.lastdst)


def _missing_snapshot(home: OnDisk) -> None:
    home.vault.point_at(home.vault.root / "2026-02-02")


def _outside_root(home: OnDisk) -> None:
    home.vault.point_at("/usr/share/doc")


def _dots(home: OnDisk) -> None:
    home.vault.point_at(f"{home.vault.root}/../../../etc")


def _the_root_itself(home: OnDisk) -> None:
    home.vault.point_at(home.vault.root)


def _snapshot_is_a_link(home: OnDisk) -> None:
    (home.vault.root / "2026-02-03").symlink_to("/etc")
    home.vault.point_at(home.vault.root / "2026-02-03")


def _through_a_link(home: OnDisk) -> None:
    (home.vault.root / "link").symlink_to("/usr")
    home.vault.point_at(home.vault.root / "link" / "share")


def _snapshot_is_a_file(home: OnDisk) -> None:
    home.vault.point_at(home.first / "one")


def _empty_snapshot(home: OnDisk) -> None:
    (home.vault.root / "2026-02-04").mkdir()
    home.vault.point_at(home.vault.root / "2026-02-04")


def _older_snapshot(home: OnDisk) -> None:
    home.vault.point_at(home.first.rename(home.vault.root / "2025-12-31"))


def _future_snapshot(home: OnDisk) -> None:
    home.vault.point_at(home.second.rename(home.vault.root / "2099-12-31"))


def _unplugged(home: OnDisk) -> None:
    home.disk.detach()


def _write_protected(home: OnDisk) -> None:
    home.disk.detach()
    home.disk.attach(read_only=True)


def _locked(home: OnDisk) -> None:
    assert home.vault.lock().status == 0


def _broken_vault_file(home: OnDisk) -> None:
    home.vault.rewrite("this is no TOML [")


def _unknown_setting(home: OnDisk) -> None:
    home.vault.edit(r"^\[source\]\n", '[source]\ncolour = "green"\n')


def _forbidden_rsync_option(home: OnDisk) -> None:
    home.vault.set_target('rsync_options = ["--delete-before"]')


def _broken_settings(_home: OnDisk) -> None:
    write(SETTINGS, "this is no TOML [")


def _tool(name: str, script: str) -> Callable[[OnDisk], None]:
    def arrange(home: OnDisk) -> None:
        program = home.vault.root / name
        if script:
            write(program, script, 0o755)
        write(SETTINGS, f'[tools]\n{name} = "{program}"\n')

    arrange.__name__ = f"{name}: {script.splitlines()[-1] if script else 'missing'}"
    return arrange


def _no_key_file(home: OnDisk) -> None:
    (home.vault.directory / "plain" / ".gocryptfs.reverse.conf").unlink()


def _damaged_key_file(home: OnDisk) -> None:
    write(home.vault.directory / "plain" / ".gocryptfs.reverse.conf", "{}")


@pytest.mark.parametrize(
    ("arrange", "status", "reason", "words"),
    [
        (_no_lastdst, 1, "source-missing", "Check [source] path"),
        (_empty_lastdst, 1, "source-malformed", "one absolute path"),
        (_lastdst_of_two_lines, 1, "source-malformed", "one absolute path"),
        (_relative_lastdst, 1, "source-malformed", "one absolute path"),
        (_huge_lastdst, 1, "source-malformed", "one absolute path"),
        (_lastdst_is_a_link, 1, "source-missing", "Check [source] path"),
        (_lastdst_is_a_fifo, 1, "source-malformed", "one absolute path"),
        (_missing_snapshot, 1, "snapshot-missing", "has the snapshot tool run"),
        (_outside_root, 7, "snapshot-outside-root", "set [source] root"),
        (_dots, 1, "source-malformed", "one absolute path"),
        (_the_root_itself, 7, "snapshot-outside-root", "set [source] root"),
        (_snapshot_is_a_link, 1, "snapshot-symlink", "without symbolic links"),
        (_through_a_link, 1, "snapshot-symlink", "without symbolic links"),
        (_snapshot_is_a_file, 1, "snapshot-not-directory", "[source] path"),
        (_empty_snapshot, 1, "snapshot-empty", "never mirrored"),
        (_older_snapshot, 1, "snapshot-older", "--allow-older"),
        (_future_snapshot, 1, "snapshot-future", "--allow-older"),
        (_unplugged, 5, "target-absent", "Attach the disk of target disk"),
        (_write_protected, 1, "target-read-only", "Check the permissions and mount options of target disk"),
        (_locked, 3, "", "offsitectl unlock {vault}"),
        (_broken_vault_file, 7, "", "offsitectl check-config"),
        (_unknown_setting, 7, "", "offsitectl check-config"),
        (_forbidden_rsync_option, 7, "", "offsitectl check-config"),
        (_broken_settings, 7, "config-invalid", "offsitectl check-config"),
        (_tool("gocryptfs", "#!/bin/sh\necho gocryptfs 2.3; go-fuse 2.1.1; exit 0"), 7, "gocryptfs-too-old", "Install gocryptfs 2.5.1"),
        (_tool("gocryptfs", "#!/bin/sh\nexit 1"), 7, "gocryptfs-missing", "Install gocryptfs 2.5.1"),
        (_tool("gocryptfs", ""), 7, "gocryptfs-missing", "Install gocryptfs 2.5.1"),
        (_tool("rsync", ""), 7, "rsync-missing", "Install rsync"),
        (_no_key_file, 7, "key-file-damaged", "offsitectl restore-key {vault} --from"),
        (_damaged_key_file, 7, "key-file-damaged", "offsitectl restore-key {vault} --from"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_what_hinders_a_sync(home: OnDisk, arrange: Callable[[OnDisk], None], status: int, reason: str, words: str) -> None:
    before = home.disk.content()
    arrange(home)
    ended = home.vault.sync()
    assert (ended.status, ended.json["exit_status"]) == (status, status), ended.told
    assert ended.json.get("reason", "") == reason
    assert words.format(vault=home.vault.name) in ended.stderr
    home.disk.detach()
    home.disk.attach()
    assert home.disk.content() == before


def test_wrong_passphrase(home: OnDisk) -> None:
    home.vault.lock()
    ended = home.vault.unlock("wrong")
    assert ended.status == 3
    assert f"offsitectl unlock {home.vault.name}" in ended.stderr
    assert home.vault.is_locked()


@pytest.mark.parametrize("passphrase", ["", "\n", "two\nlines", "x" * 5000])
def test_what_cannot_be_a_passphrase(home: OnDisk, passphrase: str) -> None:
    home.vault.lock()
    ended = home.vault.unlock(passphrase)
    assert ended.status == 1
    assert "passphrase" in ended.stderr
    assert home.vault.is_locked()


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (("sync", "nosuch"), 2, "offsitectl list"),
        (("sync", "{vault}", "--target", "nosuch"), 2, "offsitectl status {vault}"),
        (("sync", "../../etc"), 2, "a-z"),
        (("sync",), 2, "Usage"),
        (("sync", "{vault}", "--nosuch"), 2, "--nosuch"),
        (("sync", "{vault}", "--all", "--target", "disk"), 2, "--all"),
        (("cancel", "{vault}"), 2, "offsitectl history {vault}"),
        (("lock", "nosuch"), 2, "offsitectl list"),
        (("status", "nosuch"), 2, "offsitectl list"),
        (("history", "nosuch"), 2, "offsitectl list"),
        (("restore", "{vault}", "../etc/passwd", "--to", "/tmp/to"), 2, "relative to its top"),
        (("restore", "{vault}", "--to", "/no/such/place"), 1, "--to DIR"),
        (("init", "{vault}", "--source", "path:/srv", "--target", "a=disk:LABEL=A"), 2, "Choose another name"),
        (("init", "new", "--source", "path:/srv", "--target", "a=floppy:A"), 2, "disk:"),
        (("init", "new", "--source", "tape:/srv", "--target", "a=disk:LABEL=A"), 2, "lastdst"),
        (("init", "new", "--source", "path:/etc/passwd", "--target", "a=disk:LABEL=A"), 2, "Check --source"),
    ],
)
def test_what_cannot_be_meant(home: OnDisk, command: tuple[str, ...], status: int, words: str) -> None:
    ended = offsitectl(*(word.format(vault=home.vault.name) for word in command))
    assert ended.status == status, ended.told
    assert words.format(vault=home.vault.name) in ended.stderr
    assert not (ETC / "vaults.d" / "new.toml").exists()


def test_init_that_fails_leaves_nothing(vault: MakeVault, disk: MakeDisk) -> None:
    """The passphrase cannot be one; nothing of the vault is made, and the same init with a good one works."""
    home, target = vault(), disk()
    home.snapshot()
    command = ("init", home.name, "--source", f"lastdst:{home.lastdst}", "--target", f"a=disk:UUID={target.uuid}", "--passphrase-file", "-")
    assert offsitectl(*command, stdin="").status == 1
    for path in (home.file, home.directory, Path(f"/etc/systemd/system/offsited-sync@{home.name}.path.d")):
        assert not path.exists()
    assert offsitectl(*command, stdin=home.passphrase).status == 0


def _foreign(current: Path) -> None:
    (current / "offsited.json").write_text('{"format": 1, "vault": "5a5f8a7e-0000-4000-8000-000000000000"}')


def _garbled(current: Path) -> None:
    (current / "offsited.json").write_bytes(b"\xff\x00")


def _unowned(current: Path) -> None:
    (current / "offsited.json").unlink()


def _a_file(current: Path) -> None:
    shutil.rmtree(current)
    current.write_text("precious")


def _a_link(current: Path) -> None:
    current.rename(current.with_suffix(".real"))
    current.symlink_to(current.with_suffix(".real").name)


@pytest.mark.parametrize("tamper", [_foreign, _garbled, _unowned, _a_file, _a_link], ids=lambda tamper: tamper.__name__.strip("_"))
def test_a_target_that_is_not_ours_is_left_alone(home: OnDisk, tamper: Callable[[Path], None]) -> None:
    saved = home.vault.root / "saved"
    with home.disk.mounted(writing=True) as top:
        must("cp", "-a", top / home.vault.name, saved)
        tamper(top / home.vault.name)
    before = home.disk.content()
    ended = home.vault.sync()
    after = home.disk.content()
    with home.disk.mounted(writing=True) as top:
        must("rm", "-rf", top / home.vault.name, top / f"{home.vault.name}.real")
        must("cp", "-a", saved, top / home.vault.name)
    assert ended.status == 1, ended.told
    assert ended.json["reason"].startswith("target-")
    assert after == before


def test_a_bare_directory_is_never_taken_for_a_disk(home: OnDisk) -> None:
    """Nothing is at the disk's usual mount point; the job never looks there."""
    home.disk.detach()
    mount_point = Path(f"/run/offsited-job-{home.vault.name}")
    assert home.vault.sync().status == 5
    assert not mount_point.exists()
    assert not list(SNAPSHOTS.glob("*/current"))
