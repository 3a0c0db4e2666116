# SPDX-License-Identifier: GPL-3.0-or-later
"""The bus policy: root may own the name, everybody may call each interface, and nothing is denied, as a deny also drops signals to us."""

import xml.etree.ElementTree as ET
from pathlib import Path

from offsited import names

DBUS = Path(__file__).parents[2] / "dbus"
STANDARD = ("Introspectable", "Properties", "ObjectManager", "Peer")


def rules() -> list[tuple[dict[str, str], str, dict[str, str]]]:
    root = ET.parse(DBUS / "org.offsited.Offsite1.conf").getroot()  # noqa: S314
    return [(policy.attrib, rule.tag, rule.attrib) for policy in root.findall("policy") for rule in policy]


def test_root_alone_may_own_the_name() -> None:
    assert [(policy, rule) for policy, tag, rule in rules() if tag == "allow" and "own" in rule] == [
        ({"user": "root"}, {"own": names.BUS_NAME})
    ]


def test_nothing_is_denied() -> None:
    assert [rule for _, tag, rule in rules() if tag != "allow"] == []


def test_everybody_may_call_each_interface_and_nothing_else() -> None:
    ours = [element.attrib["name"] for element in ET.parse(DBUS / "org.offsited.Offsite1.xml").getroot().findall("interface")]  # noqa: S314
    allowed = [rule for policy, _, rule in rules() if policy == {"context": "default"}]
    expected = {*ours, *(f"org.freedesktop.DBus.{name}" for name in STANDARD)}
    assert {rule.get("send_interface") for rule in allowed} == expected
    assert {rule.get("send_destination") for rule in allowed} == {names.BUS_NAME}
