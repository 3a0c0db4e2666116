# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bus itself answers to a call that reaches no handler. D-Bus specification, Standard Error Names of libdbus."""

from typing import Final

from offsited.edge.bus.vocabulary import LIMITS_EXCEEDED
from offsited.errors import Exit, OffsitedError

_STANDARD: Final = "org.freedesktop.DBus.Error."


class UnknownObject(OffsitedError):
    """There is no object at this path."""

    bus_name = _STANDARD + "UnknownObject"
    exit_status = Exit.USAGE


class UnknownInterface(OffsitedError):
    """The object does not have this interface."""

    bus_name = _STANDARD + "UnknownInterface"
    exit_status = Exit.USAGE


class UnknownMethod(OffsitedError):
    """The interface does not have this method."""

    bus_name = _STANDARD + "UnknownMethod"
    exit_status = Exit.USAGE


class UnknownProperty(OffsitedError):
    """The interface does not have this property."""

    bus_name = _STANDARD + "UnknownProperty"
    exit_status = Exit.USAGE


class PropertyReadOnly(OffsitedError):
    """The property cannot be set."""

    bus_name = _STANDARD + "PropertyReadOnly"
    exit_status = Exit.USAGE


class LimitsExceeded(OffsitedError):
    """Too much at once, or too long."""

    bus_name = LIMITS_EXCEEDED
