# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification as an administrator has it: what is wrong at a target is named to those allowed, to nobody else, and sent again."""

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from .conftest import MakeVault
from .daemon import JOB, TARGET, Watch, get, outcome, target_path
from .machine import Ended, journal, must, offsitectl, run, shown
from .remote import Remote, at_remote
from .trees import census, differences, plant
from .vaults import BULK, OnDisk, Vault

SECRETS = {"diary-of-1987": "dear", "love-letter": "darling", "tax-return": "nothing"}


def verify(vault: Vault, *arguments: str) -> tuple[Ended, list[dict[str, object]]]:
    """Verify; what a program reads of it: the job's end and each difference."""
    ended = offsitectl("verify", vault.name, "--json", *arguments)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    return ended, [one for one in told if "what" in one]


def clean(vault: Vault, *arguments: str) -> dict[str, object]:
    """It finds nothing."""
    ended, found = verify(vault, *arguments)
    assert (ended.status, found) == (0, []), ended.told
    return ended.json


@pytest.fixture
def secretive(home: OnDisk) -> OnDisk:
    """A vault whose files have names that nobody else should read."""
    home.first = home.vault.snapshot("2026-01-04", **SECRETS)
    home.vault.synced()
    return home


def damage(home: OnDisk) -> None:
    """The last byte of each file of the snapshot."""
    with home.disk.mounted(writing=True) as top:
        current = top / home.vault.name / "current"
        for file in current.glob("*/*"):
            if not file.name.startswith("gocryptfs.") and file.stat().st_size < 200:  # the commit and the manifest are larger
                kept = file.stat()
                content = file.read_bytes()
                file.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
                os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def test_what_is_damaged_on_a_disk_is_named_and_sent_again(secretive: OnDisk) -> None:
    vault = secretive.vault
    clean(vault)
    damage(secretive)
    clean(vault, "--level", "metadata")  # nothing but the content is wrong
    ended, found = verify(vault, "--level", "data")
    assert ended.status == 8, ended.told
    assert {(one["path"], one["what"]) for one in found} == {(name, "content") for name in SECRETS}
    shown_to_a_person = offsitectl("verify", vault.name, "--level", "data")
    assert "love-letter: content: " in shown_to_a_person.stdout
    assert f"to do     disk: Send again what differs: offsitectl verify {vault.name} --target disk --repair" in offsitectl("status").stdout
    ended, found = verify(vault, "--level", "data", "--repair")
    assert (ended.status, len(found)) == (0, 3), ended.told
    assert ended.json["kind"] == "sync"
    assert ended.json["sent_entries"] == 3
    before = int(clean(vault, "--level", "data")["ended"])  # type: ignore[call-overload]
    assert get(target_path(vault.name, "disk"), TARGET, "Verified") == before
    assert get(target_path(vault.name, "disk"), TARGET, "CheckReason") == ""
    assert "verified " in offsitectl("status", vault.name).stdout
    assert "verify" in offsitectl("history", vault.name).stdout


def test_names_reach_nobody_else(secretive: OnDisk, user: pwd.struct_passwd) -> None:
    vault = secretive.vault
    damage(secretive)
    with Watch() as watch:
        service = f"offsited-verify@{vault.name}.service"
        write_days(vault)
        assert run("systemctl", "start", service).status == 1
        job = watch.until_removed(vault.name)
    assert (shown(service, "Result"), shown(service, "ExecMainStatus")) == ("exit-code", "8")
    must("systemctl", "reset-failed", service)
    assert outcome(job)["differences"] == 3
    assert not [name for name in SECRETS if name in journal()]
    findings = vault.directory / f"state/jobs/{job}.findings"
    assert findings.stat().st_mode & 0o777 == 0o600
    assert all(name in findings.read_text() for name in SECRETS)
    assert not [name for name in SECRETS if name in offsitectl("history", vault.name, "--json").stdout]
    assert offsitectl("verify", vault.name, user=user.pw_name).status == 9


def write_days(vault: Vault) -> None:
    """Have the timed verification read content: of so little all of it is due at once."""
    vault.rewrite("verify_days = 1\n" + vault.file.read_text())


def test_the_timer_comes_and_goes_with_that_of_the_syncs(home: OnDisk) -> None:
    syncing, verifying = (f"offsited-{what}@{home.vault.name}.timer" for what in ("sync", "verify"))
    must("systemctl", "start", syncing)
    assert shown(verifying, "ActiveState") == "active"
    must("systemctl", "stop", syncing)
    assert shown(verifying, "ActiveState") == "inactive"


def test_a_sync_that_runs_goes_first(home: OnDisk) -> None:
    home.vault.synced()
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as sync:
        command = ["offsitectl", "verify", home.vault.name, "--level", "data", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as verifying:
            while (signal := sync.watch.next("JobNew")).body[2] != home.vault.name:
                pass
            number = int(signal.body[0])
            path = f"/org/offsited/Offsite1/jobs/{number}"
            if get(path, JOB, "Phase") != "waiting":
                sync.watch.until_changed(path, Phase="waiting")
            assert sync.end()["outcome"] == "done"
            verifying.communicate()
    assert verifying.returncode == 0
    assert outcome(number)["started"] < outcome(sync.number)["ended"] < outcome(number)["ended"]


FLIP = """
import os, pathlib, sys
for file in sorted(pathlib.Path(sys.argv[1]).glob("*/*")):
    if file.is_file() and not file.is_symlink() and not file.name.startswith("gocryptfs.") and 0 < file.stat().st_size < 200:
        status, content = file.stat(), file.read_bytes()
        file.write_bytes(bytes((content[0] ^ 1,)) + content[1:])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        break
"""


def test_over_ssh_everything_is_compared_too(vault: MakeVault, remote: Remote, key: Path, tmp_path: Path) -> None:
    made = vault()
    snapshot = made.snapshot()
    plant(snapshot / "tree")
    remote.let_in(str(made.init(f"vps={remote.spec}", key=key).json["authorized_keys"]))
    assert made.sync().status in {0, 1}
    clean(made, "--level", "metadata")
    clean(made, "--level", "data")
    current = f"{remote.directory}/current"
    directories = at_remote(f"find {current} -mindepth 3 -maxdepth 3 -type d | sort").split()
    at_remote(f"python3 - {current}", FLIP)
    at_remote(f"chown -h 4321 {directories[1]}; rm {directories[0]}/gocryptfs.diriv; ln -s nowhere {current}/stray")
    links = at_remote(f"find {current} -type l ! -name stray | head -1").strip()
    at_remote(f"touch -h -d '2001-01-01 00:00:00.5' {links}")
    ended, found = verify(made, "--level", "data")
    assert ended.status == 8, ended.told
    whats = {str(one["what"]) for one in found}
    assert {"content", "owner", "names", "extra", "time"} <= whats, found
    ended, _ = verify(made, "--level", "data", "--repair")
    assert ended.status == 0, ended.told
    clean(made, "--level", "data")
    assert differences(census(snapshot), made.restored(tmp_path / "back", target="vps")) == []


def test_what_fake_super_keeps_is_compared_as_what_it_stands_for(vault: MakeVault, remote: Remote, key: Path, tmp_path: Path) -> None:
    made = vault()
    snapshot = made.snapshot()
    plant(snapshot / "tree")
    remote.let_in(str(made.init(f"vps={remote.spec}", key=key).json["authorized_keys"]))
    made.set_target('rsync_options = ["-M--fake-super"]')
    assert made.sync().status in {0, 1}
    clean(made, "--level", "data")
    assert differences(census(snapshot), made.restored(tmp_path / "back")) == []


def test_a_restore_for_proof(home: OnDisk, user: pwd.struct_passwd) -> None:
    vault = home.vault
    vault.synced()
    ended = offsitectl("restore-test", vault.name, "--json")
    assert (ended.status, ended.json["entries"]) == (0, 3), ended.told
    assert get(target_path(vault.name, "disk"), TARGET, "Proven") == ended.json["ended"]
    assert "last proven restorable " in offsitectl("status", vault.name).stdout
    must("systemctl", "start", f"offsited-restore-test@{vault.name}.service")
    assert offsitectl("restore-test", vault.name, user=user.pw_name).status == 9
    assert not (vault.directory / "state/targets/disk/restore-test").exists()
