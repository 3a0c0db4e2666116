# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon on the bus, as an administrator meets it by busctl(1): what is there, and that it is what the XML promises."""

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from offsited.core.record import Held, Plan

from .daemon import JOB, MANAGER, NAME, ROOT, TARGET, VAULT, Watch, call, get, objects, outcome, target_path
from .machine import must, run
from .vaults import BULK, OnDisk

XML = Path("/usr/share/dbus-1/interfaces/org.offsited.Offsite1.xml")
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"

Member = tuple[str, str]
"""Kind and name."""


def test_tree_shows_every_object(home: OnDisk) -> None:
    listed = must("busctl", "tree", "--list", NAME).split()
    for path in (ROOT, home.vault.path, target_path(home.vault.name, "disk")):
        assert path in listed


def test_introspect_shows_values_and_signatures(home: OnDisk) -> None:
    told = {line.split()[0]: line.split()[1:] for line in must("busctl", "introspect", NAME, home.vault.path).splitlines()[1:]}
    assert told[".Sync"][:3] == ["method", "sa{sv}", "o"]
    assert told[".Name"][:3] == ["property", "s", f'"{home.vault.name}"']
    assert told[".Locked"][:3] == ["property", "b", "false"]
    assert told["org.freedesktop.DBus.Properties"][0] == "interface"


def test_call_works_and_errors_are_told(home: OnDisk) -> None:
    assert must("busctl", "call", NAME, ROOT, MANAGER, "GetVault", "s", home.vault.name) == f'o "{home.vault.path}"\n'
    refused = run("busctl", "call", NAME, ROOT, MANAGER, "GetVault", "s", "nosuch")
    assert refused.status == 1
    assert "nosuch" in refused.stderr
    with Watch() as watch:
        started = must("busctl", "call", "--json=short", NAME, home.vault.path, VAULT, "Sync", "sa{sv}", "", "0")
        job = int(json.loads(started)["data"][0].rpartition("/")[2])
        assert watch.next("JobNew").body == [job, f"{ROOT}/jobs/{job}", home.vault.name]
        assert watch.next("JobRemoved").body == [job, f"{ROOT}/jobs/{job}", home.vault.name, "done"]
    assert get(home.vault.path, VAULT, "LastJob") == job
    assert get(target_path(home.vault.name, "disk"), TARGET, "CommitJob") == job
    assert call(home.vault.path, VAULT, "ListJobs", "u", 1) == [[job]]


def test_outcome_has_every_word_that_the_xml_promises(home: OnDisk) -> None:
    job = home.vault.synced()["job"]
    told = outcome(job)
    plan = {f"plan_{name}" for name in Plan.model_fields}
    held = {f"held_{name}" for name in Held.model_fields}
    assert set(told) == plan | held | {
        "kind", "vault", "target", "outcome", "reason", "requested", "started", "ended", "snapshot_dated", "entries", "bytes",
        "sent_entries", "sent_bytes", "wire_bytes", "deleted_entries", "differences", "commit", "dry_run",
    }  # fmt: skip
    assert 0 < told["requested"] <= told["started"] <= told["ended"]
    assert told["entries"] == 3
    kept = home.vault.directory / "state" / "targets" / "disk" / "commit.json"
    assert told["commit"] == hashlib.sha256(kept.read_bytes()).hexdigest()


def test_the_daemon_is_what_the_xml_says(home: OnDisk) -> None:
    """The running daemon's own introspection, object by object, against the contract."""
    promised = {name: _members(interface) for name, interface in _interfaces(XML.read_text()).items()}
    assert set(promised) == {MANAGER, VAULT, TARGET, JOB}
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        for interface, path in {
            MANAGER: ROOT,
            VAULT: home.vault.path,
            TARGET: target_path(home.vault.name, "disk"),
            JOB: job.path,
        }.items():
            exported = _interfaces(call(path, INTROSPECTABLE, "Introspect")[0])
            assert [name for name in exported if name.startswith(NAME)] == [interface]
            assert _members(exported[interface]) == promised[interface]
            properties = {name for kind, name in promised[interface] if kind == "property"}
            assert set(call(path, "org.freedesktop.DBus.Properties", "GetAll", "s", interface)[0]) == properties
            if path != ROOT:  # which manages the others, and is not among them
                assert set(objects()[path][interface]) == properties
        assert job.end()["outcome"] == "done"


def _interfaces(xml: str) -> dict[str, ET.Element]:
    return {found.attrib["name"]: found for found in ET.fromstring(xml).findall("interface")}  # noqa: S314 - our own


def _members(interface: ET.Element) -> dict[Member, object]:
    """Everything of an interface that a client can rely on, in a form that does not depend on spelling or order."""
    return {(found.tag, found.attrib["name"]): _essence(found) for found in interface if found.tag != "annotation"}


def _essence(member: ET.Element) -> object:
    inwards = "out" if member.tag == "signal" else "in"
    arguments = [(arg.get("name"), arg.attrib["type"], arg.get("direction", inwards)) for arg in member.findall("arg")]
    annotations = sorted((note.attrib["name"], note.attrib["value"]) for note in member.findall("annotation"))
    return arguments, annotations, member.get("type"), member.get("access")


@pytest.mark.parametrize(
    ("path", "interface", "member", "arguments", "error"),
    [
        (ROOT, MANAGER, "GetVault", ("u", "1"), "types 's'"),
        (ROOT, MANAGER, "Reload", ("a{sv}", "1", "colour", "s", "green"), "colour"),
        (ROOT, MANAGER, "NoSuch", (), "NoSuch"),
        (f"{ROOT}/vaults/nosuch", VAULT, "Lock", ("a{sv}", "0"), "no such object"),
        (ROOT, "org.example.NoSuch", "NoSuch", (), "denied"),
    ],
)
def test_what_cannot_be_called(path: str, interface: str, member: str, arguments: tuple[str, ...], error: str) -> None:
    refused = run("busctl", "call", NAME, path, interface, member, *arguments)
    assert refused.status == 1
    assert error in refused.stderr
    assert "Traceback" not in refused.stderr
    assert ".py" not in refused.stderr


def test_properties_can_be_read_and_not_written(home: OnDisk) -> None:
    refused = run("busctl", "set-property", NAME, home.vault.path, VAULT, "Locked", "b", "true")
    assert refused.status == 1
    assert not home.vault.is_locked()


def test_changes_are_signalled(home: OnDisk) -> None:
    with Watch() as watch:
        home.vault.lock()
        watch.until_changed(home.vault.path, Locked=True)
        home.vault.unlock()
        watch.until_changed(home.vault.path, Locked=False)
        job = home.vault.synced()["job"]
        watch.until_changed(home.vault.path, Job=f"{ROOT}/jobs/{job}")
        watch.until_changed(home.vault.path, Job="/", LastJob=job, LastOutcome="done")
        watch.until_changed(target_path(home.vault.name, "disk"), CommitJob=job)


def test_vaults_come_and_go_on_the_bus(home: OnDisk) -> None:
    text = home.vault.file.read_text()
    with Watch() as watch:
        home.vault.file.rename(home.vault.file.with_suffix(".away"))
        must("systemctl", "reload", "offsited.service")
        gone = {watch.next("InterfacesRemoved").body[0] for _ in range(2)}
        assert gone == {home.vault.path, target_path(home.vault.name, "disk")}
        assert home.vault.path not in objects()
        home.vault.file.with_suffix(".away").unlink()
        home.vault.rewrite(text)
        came = {watch.next("InterfacesAdded").body[0] for _ in range(2)}
        assert came == gone


def test_the_record_of_a_job_is_an_administrators(home: OnDisk) -> None:
    """offsitectl tells root where to look; the bus tells everybody no path."""
    home.vault.point_at(home.vault.root / "conspicuous")
    ended = home.vault.sync()
    assert "conspicuous" in ended.told
    assert "conspicuous" not in str(outcome(ended.json["job"]))
