# SPDX-License-Identifier: GPL-3.0-or-later
"""What an administrator sees of the exported objects: introspection, properties, the object manager."""

import asyncio
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dbus_next.signature import Variant

from offsited import names
from offsited.edge.bus import Call

from .conftest import Daemon
from .peer import Peer, probe
from .service import NAME, PATH, PATIENCE, PROBE, SECOND, XML, Second, Service

OURS = Path(__file__).parents[2] / "dbus" / "org.offsited.Offsite1.xml"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
MANAGER = "org.freedesktop.DBus.ObjectManager"
STANDARD = {PROPERTIES, INTROSPECTABLE, "org.freedesktop.DBus.Peer"}
ERROR = "org.freedesktop.DBus.Error."


class Unserved:
    """An interface of the real XML, exported to be looked at only."""

    def __init__(self, interface: str) -> None:
        self.interface = interface

    def properties(self) -> Mapping[str, object]:
        raise NotImplementedError

    async def call(self, call: Call, member: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        raise NotImplementedError


def introspect(peer: Peer, destination: str, path: str) -> ET.Element:
    return ET.fromstring(peer.call(destination, path, INTROSPECTABLE, "Introspect")[0])  # noqa: S314


def canonical(element: ET.Element) -> str:
    return ET.canonicalize(ET.tostring(element), strip_text=True)


def children(node: ET.Element) -> list[str | None]:
    return [child.get("name") for child in node.findall("node")]


def interfaces(node: ET.Element) -> set[str | None]:
    return {child.get("name") for child in node.findall("interface")}


@pytest.mark.parametrize("source", [XML, OURS], ids=["probe", "ours"])
def test_introspection_says_what_the_xml_says(daemon: Daemon, source: Path, peer: Peer) -> None:
    written = {element.get("name"): element for element in ET.parse(source).getroot().findall("interface")}  # noqa: S314
    with Service(daemon.address, xml=source, exports=[Unserved(str(name)) for name in written]) as service:
        seen = {element.get("name"): element for element in introspect(peer, service.bus.unique_name, PATH).findall("interface")}
    assert set(seen) == {*written, *STANDARD, MANAGER}
    for name, element in written.items():
        assert canonical(seen[name]) == canonical(element)


def test_the_tree_has_no_ghosts(service: Service, peer: Peer) -> None:
    def grow() -> None:
        for path in ("vaults/home", "vaults/home2", "vaults/home/targets/vps", "jobs/1", "jobs/12"):
            service.bus.export(f"{PATH}/{path}", [Second()])

    service.do(grow)
    expected = {
        "/": ["org"],
        "/org": ["offsited"],
        "/org/offsited": ["Offsite1"],
        PATH: ["jobs", "vaults"],
        f"{PATH}/vaults": ["home", "home2"],
        f"{PATH}/vaults/home": ["targets"],
        f"{PATH}/vaults/home/targets": ["vps"],
        f"{PATH}/vaults/home/targets/vps": [],
        f"{PATH}/vaults/home2": [],
        f"{PATH}/jobs": ["1", "12"],
        f"{PATH}/jobs/1": [],
    }
    assert {path: children(introspect(peer, NAME, path)) for path in expected} == expected
    assert interfaces(introspect(peer, NAME, f"{PATH}/jobs")) == STANDARD - {PROPERTIES}
    assert interfaces(introspect(peer, NAME, f"{PATH}/jobs/1")) == STANDARD | {SECOND}
    service.do(lambda: service.bus.unexport(f"{PATH}/vaults/home2"))
    assert children(introspect(peer, NAME, f"{PATH}/vaults")) == ["home"]
    assert peer.error(probe("Introspect", interface=INTROSPECTABLE, path=f"{PATH}/vaults/home2"))[0] == ERROR + "UnknownObject"


def test_without_objects_there_is_a_bare_root(daemon: Daemon, peer: Peer) -> None:
    with Service(daemon.address, xml=None) as service:
        root = introspect(peer, service.bus.unique_name, "/")
        assert (children(root), interfaces(root)) == ([], STANDARD - {PROPERTIES})


def test_busctl_sees_the_tree(service: Service, daemon: Daemon) -> None:
    service.do(lambda: service.bus.export(f"{PATH}/jobs/1", [Second()]))
    tree = busctl(daemon, "tree", "--list", NAME)
    assert tree.split() == ["/", "/org", "/org/offsited", PATH, f"{PATH}/jobs", f"{PATH}/jobs/1"]
    shown = busctl(daemon, "introspect", NAME, PATH, PROBE)
    assert [line.split()[:4] for line in shown.splitlines() if ".Name " in line or ".Echo " in line] == [
        [".Echo", "method", "s", "s"],
        [".Name", "property", "s", '"probe"'],
    ]
    assert busctl(daemon, "call", NAME, PATH, PROBE, "Echo", "s", "hello") == 's "hello"\n'
    assert busctl(daemon, "get-property", NAME, PATH, PROBE, "Count") == "u 7\n"


def busctl(daemon: Daemon, *args: str) -> str:
    command = ["busctl", f"--address={daemon.address}", "--no-pager", *args]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout


def test_properties_are_read_by_name_and_all_at_once(service: Service, peer: Peer) -> None:
    assert peer.call(NAME, PATH, PROPERTIES, "Get", "ss", PROBE, "Count") == [Variant("u", 7)]
    assert peer.call(NAME, PATH, PROPERTIES, "Get", "ss", "", "Size") == [Variant("t", 1 << 63)]
    probed = {"Name": Variant("s", "probe"), "Count": Variant("u", 7), "Paths": Variant("ao", ["/", "/a/b"])}
    assert peer.call(NAME, PATH, PROPERTIES, "GetAll", "s", PROBE) == [probed]
    assert peer.call(NAME, PATH, PROPERTIES, "GetAll", "s", "") == [{**probed, "Size": Variant("t", 1 << 63)}]
    assert peer.call(NAME, PATH, PROPERTIES, "GetAll", "s", INTROSPECTABLE) == [{}]


@pytest.mark.parametrize(
    ("member", "signature", "args", "error"),
    [
        ("Get", "ss", ("org.offsited.Test1.Nowhere", "Count"), "UnknownInterface"),
        ("Get", "ss", (PROBE, "Nowhere"), "UnknownProperty"),
        ("Get", "ss", ("", "Nowhere"), "UnknownProperty"),
        ("Get", "ss", (INTROSPECTABLE, "Count"), "UnknownProperty"),
        ("GetAll", "s", ("org.offsited.Test1.Nowhere",), "UnknownInterface"),
        ("Set", "ssv", (PROBE, "Count", Variant("u", 8)), "PropertyReadOnly"),
        ("Set", "ssv", (PROBE, "Nowhere", Variant("u", 8)), "UnknownProperty"),
        ("Set", "ssv", ("org.offsited.Test1.Nowhere", "Count", Variant("u", 8)), "UnknownInterface"),
    ],
)
def test_wrong_property_calls_are_standard_errors(
    service: Service, peer: Peer, member: str, signature: str, args: tuple[Any, ...], error: str
) -> None:
    assert peer.error(probe(member, signature, *args, interface=PROPERTIES))[0] == ERROR + error


def test_changes_are_told_as_the_xml_says(service: Service, peer: Peer) -> None:
    peer.follow()
    service.do(lambda: service.bus.changed(PATH, PROBE, {"Name": "never", "Count": 8, "Paths": []}))
    signal = peer.signal("PropertiesChanged")
    assert (signal.path, signal.interface, signal.body) == (PATH, PROPERTIES, [PROBE, {"Count": Variant("u", 8)}, ["Paths"]])
    service.do(lambda: service.bus.changed(PATH, PROBE, {"Name": "never"}))
    service.do(lambda: service.bus.emit(PATH, PROBE, "Tick", 1, "next"))
    assert peer.signal_of(service.bus.unique_name).member == "Tick"


def test_the_object_manager_lists_what_is_below_it(service: Service, peer: Peer) -> None:
    below = f"{PATH}/vaults/home"
    size = {"Size": Variant("t", 1 << 63)}
    peer.follow()
    service.do(lambda: service.bus.export(below, [Second()]))
    added = peer.signal("InterfacesAdded")
    assert (added.path, added.interface, added.body) == (PATH, MANAGER, [below, {SECOND: size}])
    assert peer.call(NAME, PATH, MANAGER, "GetManagedObjects") == [{below: {SECOND: size}}]
    assert peer.error(probe("GetManagedObjects", interface=MANAGER, path=below))[0] == ERROR + "UnknownInterface"
    service.do(lambda: service.bus.unexport(below))
    removed = peer.signal("InterfacesRemoved")
    assert (removed.path, removed.interface, removed.body) == (PATH, MANAGER, [below, [SECOND]])
    assert peer.call(NAME, PATH, MANAGER, "GetManagedObjects") == [{}]


def test_a_call_goes_on_when_its_object_goes(service: Service, peer: Peer) -> None:
    below = names.job_path(1)
    service.do(lambda: service.bus.export(below, [service.probe]))
    held = peer.send(probe("Hold", path=below))
    peer.ask(probe("Nothing"))
    service.do(lambda: service.bus.unexport(below))
    service.do(service.probe.release.set)
    assert peer.reply(held).error_name is None


@pytest.mark.parametrize("path", [PATH, "relative", "/trailing/", "/new\nline", "/a-b", ""])
def test_a_bad_path_or_one_in_use_is_refused(service: Service, path: str) -> None:
    with pytest.raises(ValueError, match="no object can be exported"):
        service.do(lambda: service.bus.export(path, [Second()]))


def test_what_the_xml_does_not_have_is_refused(service: Service) -> None:
    with pytest.raises(KeyError):
        service.do(lambda: service.bus.export("/a", [Unserved("org.offsited.Test1.Nowhere")]))
    with pytest.raises(KeyError):
        service.do(lambda: service.bus.emit(PATH, PROBE, "Nowhere"))
    with pytest.raises(KeyError):
        service.do(lambda: service.bus.changed(PATH, PROBE, {"Nowhere": 1}))


def test_a_name_that_is_taken_cannot_be_owned(service: Service, daemon: Daemon) -> None:
    with Service(daemon.address, xml=None) as second, pytest.raises(Exception, match="AddressInUse"):
        second.run(asyncio.wait_for(second.bus.own_name(NAME), PATIENCE))
