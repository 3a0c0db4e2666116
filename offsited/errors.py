# SPDX-License-Identifier: GPL-3.0-or-later
"""One tree of errors. Each carries its name on the bus and the exit status that a command ends with."""

from enum import IntEnum
from typing import ClassVar

from offsited.names import ERROR_PREFIX


class Exit(IntEnum):
    """Exit statuses of every program of the project."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    LOCKED = 3
    HELD = 4
    ABSENT = 5
    BUSY = 6
    CONFIG = 7
    DIFFERENT = 8
    DENIED = 9


class OffsitedError(Exception):
    """What happened, to which vault; `hint` says what to do next. The message never holds a user's file name."""

    bus_name: ClassVar[str] = ERROR_PREFIX + "Failed"
    exit_status: ClassVar[Exit] = Exit.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Failed(OffsitedError):
    """The thing asked for was tried and did not work."""


class Internal(OffsitedError):
    """A defect of ours."""

    bus_name = ERROR_PREFIX + "Internal"


class Locked(OffsitedError):
    """The vault needs its passphrase."""

    bus_name = ERROR_PREFIX + "Locked"
    exit_status = Exit.LOCKED


class WrongPassphrase(OffsitedError):
    """The passphrase does not open the vault's key file."""

    bus_name = ERROR_PREFIX + "WrongPassphrase"
    exit_status = Exit.LOCKED


class Busy(OffsitedError):
    """A job writes to this vault."""

    bus_name = ERROR_PREFIX + "Busy"
    exit_status = Exit.BUSY


class Held(OffsitedError):
    """A limit holds something back; it waits for a person."""

    bus_name = ERROR_PREFIX + "Held"
    exit_status = Exit.HELD


class NoSuchVault(OffsitedError):
    """No vault of this name is configured."""

    bus_name = ERROR_PREFIX + "NoSuchVault"
    exit_status = Exit.USAGE


class NoSuchTarget(OffsitedError):
    """The vault has no target of this name."""

    bus_name = ERROR_PREFIX + "NoSuchTarget"
    exit_status = Exit.USAGE


class NoSuchJob(OffsitedError):
    """No job of this number is known."""

    bus_name = ERROR_PREFIX + "NoSuchJob"
    exit_status = Exit.USAGE


class TargetAbsent(OffsitedError):
    """The target's disk is not there, or its host cannot be reached."""

    bus_name = ERROR_PREFIX + "TargetAbsent"
    exit_status = Exit.ABSENT


class ConfigInvalid(OffsitedError):
    """A configuration file cannot be read or says something that cannot be."""

    bus_name = ERROR_PREFIX + "ConfigInvalid"
    exit_status = Exit.CONFIG


class InvalidArgs(OffsitedError):
    """The caller's arguments are not what the interface says."""

    bus_name = "org.freedesktop.DBus.Error.InvalidArgs"
    exit_status = Exit.USAGE


class AccessDenied(OffsitedError):
    """polkit, or the kernel, said no."""

    bus_name = "org.freedesktop.DBus.Error.AccessDenied"
    exit_status = Exit.DENIED


class InteractiveAuthorizationRequired(OffsitedError):
    """polkit would ask the user, and the caller did not allow that."""

    bus_name = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
    exit_status = Exit.DENIED


class Different(OffsitedError):
    """What is there is not as the manifest says. Never on the bus: a job ends in it."""

    exit_status = Exit.DIFFERENT


class JobFailed(OffsitedError):
    """A job must end now, for a reason of the table in `core.outcome`; raised by a worker alone.

    `detail` goes into the job's record and the journal, both readable by root alone, so it may name paths.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def by_bus_name(name: str) -> type[OffsitedError]:
    """Given an error's name on the bus, return our class for it, or `Failed` for a stranger's."""
    return _BY_BUS_NAME.get(name, Failed)


def _tree(top: type[OffsitedError]) -> list[type[OffsitedError]]:
    return [found for child in top.__subclasses__() for found in (child, *_tree(child))]


_BY_BUS_NAME = {found.bus_name: found for found in _tree(OffsitedError) if found not in (JobFailed, Different)}
