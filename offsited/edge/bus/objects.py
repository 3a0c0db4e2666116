# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of exported objects, and what the standard interfaces say about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from offsited import names
from offsited.edge.bus.interfaces import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES, STANDARD, Interface, Method, Property
from offsited.edge.bus.refusals import PropertyReadOnly, UnknownInterface, UnknownMethod, UnknownObject, UnknownProperty
from offsited.edge.bus.vocabulary import Export, Variant
from offsited.edge.bus.wire import is_path

Properties = Mapping[str, Variant]
"""What goes out as a{sv}."""

_DOCTYPE: Final = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_MACHINE_ID: Final = Path("/etc/machine-id")


@dataclass(frozen=True)
class Target:
    """The method that a call means. `export` is None for a standard interface, which the tree answers itself."""

    interface: str
    method: Method
    export: Export | None


class Objects:
    """Objects by path. Paths above an object exist without being one."""

    def __init__(self, interfaces: Mapping[str, Interface]) -> None:
        self._interfaces = {**interfaces, **STANDARD}
        self._exports: dict[str, Mapping[str, Export]] = {}
        self._answers: Mapping[str, Callable[..., tuple[Any, ...]]] = {
            "Ping": _ping,
            "GetMachineId": _machine_id,
            "Introspect": self._introspect,
            "Get": self._get,
            "GetAll": self._get_all,
            "Set": self._set,
            "GetManagedObjects": self._managed_objects,
        }

    def add(self, path: str, exports: Sequence[Export]) -> None:
        """Put an object into the tree. Raise ValueError for a bad path or one in use, KeyError for an interface not in the XML."""
        if path in self._exports or not is_path(path):
            raise ValueError(f"no object can be exported at {path!r}")
        self._exports[path] = {self._interfaces[export.interface].name: export for export in exports}

    def remove(self, path: str) -> Sequence[str]:
        """Take an object out of the tree and return its interfaces. Raise KeyError if there is none."""
        return list(self._exports.pop(path))

    def interface(self, name: str) -> Interface:
        """An interface of the XML or a standard one. Raise KeyError."""
        return self._interfaces[name]

    def resolve(self, path: str, interface: str, member: str) -> Target:
        """Find the method that a call means; its interface may be empty. Raise UnknownObject, UnknownInterface or UnknownMethod."""
        offered = [PEER] if interface == PEER else self._offered(path)
        if interface and interface not in offered:
            raise UnknownInterface(f"no interface {interface} here")
        for name in [interface] if interface else offered:
            method = self._interfaces[name].methods.get(member)
            if method is not None:
                return Target(name, method, self._exports.get(path, {}).get(name))
        raise UnknownMethod(f"no method {member} here")

    def properties(self, export: Export) -> Properties:
        """All properties of one export, as the XML types them."""
        values = export.properties()
        return {name: Variant(found.type, values[name]) for name, found in self._interfaces[export.interface].properties.items()}

    def interfaces_of(self, path: str) -> Mapping[str, Properties]:
        """All interfaces of an object with their properties, as a{sa{sv}}."""
        return {name: self.properties(export) for name, export in self._exports[path].items()}

    def answer(self, path: str, member: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Answer a call of a standard interface."""
        return self._answers[member](path, *args)

    # --- the tree

    def _offered(self, path: str) -> list[str]:
        if not self._exists(path):
            raise UnknownObject("no such object")
        exports = self._exports.get(path, {})
        manager = [OBJECT_MANAGER] if path == names.ROOT_PATH else []
        return [*exports, INTROSPECTABLE, PEER, *([PROPERTIES] if exports else []), *manager]

    def _exists(self, path: str) -> bool:
        return path == "/" or path in self._exports or any(self._below(path))

    def _below(self, path: str) -> Iterator[str]:
        """Paths of the objects below a path, relative to it."""
        prefix = path.rstrip("/") + "/"
        return (found.removeprefix(prefix) for found in self._exports if found.startswith(prefix) and found != prefix)

    # --- the standard interfaces

    def _introspect(self, path: str) -> tuple[str]:
        offered = [f"  {self._interfaces[name].xml}\n" for name in self._offered(path)]
        children = sorted({found.partition("/")[0] for found in self._below(path)})
        nodes = [f'  <node name="{child}"/>\n' for child in children]
        return (f"{_DOCTYPE}<node>\n{''.join(offered)}{''.join(nodes)}</node>\n",)

    def _get(self, path: str, interface: str, name: str) -> tuple[Variant]:
        export, found = self._property(path, interface, name)
        return (Variant(found.type, export.properties()[name]),)

    def _set(self, path: str, interface: str, name: str, _value: object) -> tuple[Any, ...]:
        self._property(path, interface, name)
        raise PropertyReadOnly(f"{name} is read-only")

    def _get_all(self, path: str, interface: str) -> tuple[Properties]:
        exports = self._having(path, interface)
        return ({name: value for export in exports for name, value in self.properties(export).items()},)

    def _managed_objects(self, path: str) -> tuple[Mapping[str, Mapping[str, Properties]]]:
        return ({found: self.interfaces_of(found) for found in self._exports if found.startswith(path + "/")},)

    def _having(self, path: str, interface: str) -> list[Export]:
        """The exports that a property call means; its interface may be empty. Raise UnknownInterface."""
        if interface and interface not in self._offered(path):
            raise UnknownInterface(f"no interface {interface[:255]} here")
        return [export for name, export in self._exports[path].items() if interface in {"", name}]

    def _property(self, path: str, interface: str, name: str) -> tuple[Export, Property]:
        for export in self._having(path, interface):
            found = self._interfaces[export.interface].properties.get(name)
            if found is not None:
                return export, found
        raise UnknownProperty(f"no property {name[:255]} here")


def _ping(_path: str) -> tuple[()]:
    return ()


def _machine_id(_path: str) -> tuple[str]:
    return (_MACHINE_ID.read_text().strip(),)
