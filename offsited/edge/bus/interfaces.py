# SPDX-License-Identifier: GPL-3.0-or-later
"""Interfaces as the hand-written XML says them: signatures to check calls by, and the text that introspection returns."""

import xml.etree.ElementTree as ET  # the input is a file of the package, not a stranger's
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offsited.edge.bus import wire

PEER: Final = "org.freedesktop.DBus.Peer"
INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
_EMITS_CHANGED: Final = "org.freedesktop.DBus.Property.EmitsChangedSignal"


@dataclass(frozen=True)
class Method:
    """Signatures of a method's arguments and results."""

    arguments: str
    results: str


@dataclass(frozen=True)
class Property:
    """A property, readable. `emits`: true, invalidates, const or false."""

    type: str
    emits: str


@dataclass(frozen=True)
class Interface:
    """One interface; signals by the signature of their arguments. `xml` is its element, as written but for comments."""

    name: str
    methods: Mapping[str, Method]
    properties: Mapping[str, Property]
    signals: Mapping[str, str]
    xml: str


def read(path: Path) -> Mapping[str, Interface]:
    """Return the interfaces of an introspection file. Raise OSError, ParseError, or ValueError for what we do not offer."""
    return parse(path.read_text())


def parse(text: str) -> Mapping[str, Interface]:
    """Return the interfaces in an introspection text, by name."""
    return {element.attrib["name"]: _interface(element) for element in ET.fromstring(text).iter("interface")}  # noqa: S314


def _interface(element: ET.Element) -> Interface:
    methods = {child.attrib["name"]: Method(_signature(child, "in"), _signature(child, "out")) for child in element.iter("method")}
    properties = {child.attrib["name"]: _property(child, _emits(element)) for child in element.iter("property")}
    signals = {child.attrib["name"]: _signature(child, "out") for child in element.iter("signal")}
    ET.indent(element, level=1)
    return Interface(element.attrib["name"], methods, properties, signals, ET.tostring(element, encoding="unicode").strip())


def _signature(element: ET.Element, direction: str) -> str:
    """Arguments of a method go in where nothing is said, those of a signal go out."""
    default = "in" if element.tag == "method" else "out"
    types = [arg.attrib["type"] for arg in element.iter("arg") if arg.get("direction", default) == direction]
    for type_ in types:
        wire.complete_types(type_)
    return "".join(types)


def _property(element: ET.Element, default: str) -> Property:
    if element.attrib["access"] != "read":
        raise ValueError(f"property {element.attrib['name']}: only access=read is supported")
    wire.complete_types(element.attrib["type"])
    return Property(element.attrib["type"], _emits(element) or default or "true")


def _emits(element: ET.Element) -> str:
    return next((child.attrib["value"] for child in element.findall("annotation") if child.get("name") == _EMITS_CHANGED), "")


STANDARD: Final = parse("""<node>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg name="machine_uuid" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects">
      <arg name="objects" type="a{oa{sa{sv}}}" direction="out"/>
    </method>
    <signal name="InterfacesAdded">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="a{sa{sv}}"/>
    </signal>
    <signal name="InterfacesRemoved">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="as"/>
    </signal>
  </interface>
</node>""")
"""What every object offers, the object manager only at the root. D-Bus specification, Standard Interfaces."""
