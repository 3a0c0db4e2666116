# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits as a person meets them: what is held, what is shown of it, and its release."""

import json
import shutil
from pathlib import Path

import pytest

from .daemon import TARGET as TARGET_INTERFACE
from .daemon import get
from .machine import must, offsitectl, run
from .mirrors import Mirror
from .trees import census, copy_linked, differences
from .vaults import OnDisk

COUNT = 50
APPROVE = "org.offsited.Offsite1.approve"


@pytest.fixture
def many(home: OnDisk) -> OnDisk:
    """Fifty files in ten directories, synced; and the next snapshot, which is the same yet."""
    for number in range(COUNT):
        path = home.first / f"d{number % 10}" / f"file-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"content {number}")
    home.vault.synced()
    copy_linked(home.first, home.second)
    home.vault.point_at(home.second)
    return home


def rewrite(path: Path, text: str) -> None:
    """As programs do: by a new file in its place, so that no older snapshot changes."""
    path.unlink()
    path.write_text(text)


def held(home: OnDisk) -> str:
    """The id of what is held."""
    return str(get(f"{home.vault.path}/targets/disk", TARGET_INTERFACE, "HeldPlan"))


def apart(home: OnDisk, snapshot: Path, *, directories: bool = True) -> list[object]:
    """How the target differs from a snapshot. Not `directories`: attributes of directories are those of the newest one."""
    with home.disk.mounted() as top, Mirror(home.vault, top / home.vault.name / "current").clear() as clear:
        found = differences(there := census(clear / "backup"), census(snapshot))
    names_of_directories = {path for path, facts in there.items() if facts[0] == b"d"}
    return [one for one in found if directories or one[0] not in names_of_directories]


def test_sixty_percent_deleted_then_eighty_percent_rewritten(many: OnDisk) -> None:
    for number in range(6):
        shutil.rmtree(many.second / f"d{number}")
    (many.second / "new").write_text("new")
    ended = many.vault.sync()
    assert (ended.status, ended.json["outcome"], ended.json["reason"]) == (4, "held", "limit-exceeded")
    assert (ended.json["held_deleted_entries"], ended.json["held_changed_entries"]) == (30, 0)
    assert f"offsitectl approve {many.vault.name}" in ended.told
    with many.disk.mounted() as top, Mirror(many.vault, top / many.vault.name / "current").clear() as clear:
        there = census(clear / "backup")
        assert b"new" in there
        assert all(there[path] == facts for path, facts in census(many.first).items() if b"/" in path)

    again = many.vault.sync()
    assert (again.status, again.json["sent_entries"], again.json["held_plan"]) == (4, 0, ended.json["held_plan"])

    released = offsitectl("approve", many.vault.name, "--plan", held(many), "--json")
    assert (released.status, released.json["outcome"], released.json["deleted_entries"]) == (0, "done", 36)
    assert apart(many, many.second) == []
    assert held(many) == ""

    third = copy_linked(many.second, many.vault.root / "2026-01-09")
    for path in sorted(third.glob("d*/file-*"))[:16]:
        rewrite(path, "ransom")
    many.vault.point_at(third)
    ended = many.vault.sync()
    assert (ended.status, ended.json["held_changed_entries"], ended.json["held_deleted_entries"]) == (4, 16, 0)
    assert apart(many, many.second, directories=False) == []
    assert offsitectl("approve", many.vault.name, "--plan", held(many)).status == 0
    assert apart(many, third) == []


def test_diff_and_status_name_what_is_held(many: OnDisk) -> None:
    shutil.rmtree(many.second / "d0")
    shutil.rmtree(many.second / "d1")
    (many.second / "d2" / "file-2").unlink()
    (many.second / "d3").rename(many.second / "moved")
    rewrite(many.second / "d4" / "file-4", "changed")
    assert many.vault.lock().status == 0, "nobody needs a passphrase to look"
    ended = offsitectl("diff", many.vault.name)
    assert ended.status == 4
    lines = ended.stdout.splitlines()
    assert any(line.startswith("- d0/  5 entries") and line.endswith("held") for line in lines), ended.stdout
    assert any(line.startswith("- d2/file-2") and line.endswith("held") for line in lines)
    assert any(line.startswith("> d3 -> moved  5 entries") and "held" not in line for line in lines)
    assert any(line.startswith("~ d4/file-4") and "held" not in line for line in lines)
    assert not any(line.startswith("d5", 2) for line in lines)
    plan = held(many)
    assert f"offsitectl approve {many.vault.name} --target disk --plan {plan}" in ended.stdout
    documents = [json.loads(line) for line in offsitectl("diff", many.vault.name, "--json").stdout.splitlines()]
    assert {"path": "moved/file-3", "change": "renamed", "type": "f", "size": 9, "held": False, "from": "d3/file-3"} in documents
    assert documents[-1]["held_plan"] == plan
    status = offsitectl("status", many.vault.name)
    assert "held      11 deletions" in status.stdout
    dry = offsitectl("sync", many.vault.name, "--dry-run")
    assert (dry.status, "11 deletions" in dry.stdout, "file-2" in dry.told) == (4, True, False)
    assert apart(many, many.first) == [], "nobody has touched the target"


def test_what_was_not_shown_is_not_released(many: OnDisk) -> None:
    shutil.rmtree(many.second / "d0")
    shutil.rmtree(many.second / "d1")
    (many.second / "d2" / "file-2").unlink()
    assert many.vault.sync().status == 4
    shown = held(many)
    shutil.rmtree(many.second / "d3")
    assert many.vault.sync().status == 4
    refused = offsitectl("approve", many.vault.name, "--plan", shown)
    assert refused.status == 4
    assert held(many) in refused.stderr
    assert "offsitectl diff" in refused.stderr
    assert offsitectl("approve", many.vault.name).status == 2, "nobody can be asked here"
    assert apart(many, many.first, directories=False) == []
    must("rsync", "-a", f"{many.first}/", f"{many.second}/")
    assert many.vault.sync().status == 0, "what came back is not held any more"
    assert offsitectl("approve", many.vault.name, "--plan", shown).status == 4


def test_nobody_else_may_look_or_release(many: OnDisk, user: object) -> None:
    for number in range(3):
        shutil.rmtree(many.second / f"d{number}")
    assert many.vault.sync().status == 4
    for command in (["diff", many.vault.name], ["approve", many.vault.name, "--plan", held(many)]):
        ended = offsitectl(*command, user="alice")
        assert (ended.status, "file-" in ended.told) == (9, False), ended.told
    assert apart(many, many.first, directories=False) == []


def test_a_reconcile_counts_what_the_target_has(many: OnDisk) -> None:
    """The target lost the manifest's trust: what lies there beside the snapshot is held as well."""
    must("cp", "-a", many.vault.directory / "state", many.vault.root / "old-state")
    shutil.rmtree(many.vault.directory / "state" / "targets")
    for number in range(2):
        shutil.rmtree(many.second / f"d{number}")
    refused = many.vault.sync()
    assert (refused.status, refused.json["reason"]) == (1, "target-unknown")
    ended = many.vault.sync("--reconcile")
    assert (ended.status, ended.json["held_deleted_entries"]) == (4, 10), ended.told
    with many.disk.mounted() as top, Mirror(many.vault, top / many.vault.name / "current").clear() as clear:
        assert (clear / "backup" / "d0" / "file-0").exists()
    again = many.vault.sync()
    assert (again.status, again.json["held_plan"]) == (4, ended.json["held_plan"]), "what is there is looked at again"
    assert offsitectl("approve", many.vault.name, "--plan", held(many)).status == 0
    assert apart(many, many.second) == []


def test_limits_of_a_vault_file_count(many: OnDisk) -> None:
    many.vault.edit(r"^\[limits\]\n", "[limits]\nmax_delete = 0\nmax_change_bytes = '10'\n")
    (many.second / "d0" / "file-0").unlink()
    for number in (1, 2):
        rewrite(many.second / f"d{number}" / f"file-{number}", "changed")
    ended = many.vault.sync()
    assert (ended.status, ended.json["held_deleted_entries"], ended.json["held_changed_entries"]) == (4, 1, 2)
    run("systemctl", "reset-failed")
