# SPDX-License-Identifier: GPL-3.0-or-later
"""The transient units of jobs, as values: systemd's property names, D-Bus signatures and values.

What passes together and what breaks was measured on systemd 257; sources: systemd.exec(5), systemd.resource-control(5),
org.freedesktop.systemd1(5). A property that a sandbox needs and that is not here was found to break the mount, FUSE or openat2(2).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from offsited import names
from offsited.core.config import DiskTarget, Source, SshTarget, Vault
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import WRITING, JobRecord, Kind

Property = tuple[str, str, object]
"""Name, D-Bus signature, plain value."""

PYTHON: Final = "/usr/bin/python3"
WORKER: Final = (PYTHON, "-I", "-m", "offsited.worker")
PREPARER: Final = (PYTHON, "-I", "-m", "offsited.worker.preparation")
CLEARER: Final = (PYTHON, "-I", "-m", "offsited.worker.releasing")

NOTIFIER: Final = (PYTHON, "-I", "-m", "offsited.notices")
_BATCH: Final = 3
"""SCHED_BATCH, sched(7): programs that feed each other by pipes interrupt each other less: rsync and gocryptfs took an eighth less time."""
TELL, START, SKIPPED = "tell", "start", "skipped"
"""What a job has to tell: its end, its start, that a timed run was skipped for it."""

_CAPABILITY_BITS: Final = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "SETPCAP": 8, "LINUX_IMMUTABLE": 9,
    "SYS_ADMIN": 21, "SYS_RESOURCE": 24, "MKNOD": 27, "SETFCAP": 31,
}  # fmt: skip
_MOUNTING: Final = ("SYS_ADMIN", "DAC_READ_SEARCH", "SETPCAP")
_WRITING_FILES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD")
_RESTORING: Final = ("SETFCAP", "LINUX_IMMUTABLE", "SYS_RESOURCE")

_MADE_OF_DISKS: Final = (("/dev/mapper/control", "rw"), ("block-md", "rw"))
_TAKING_APART: Final = ("-/run/lvm", "-/run/mdadm")
"""What LVM and mdadm note about what is there."""
_PREPARING: Final = ("SYS_ADMIN", "SYS_RAWIO", "SYS_RESOURCE", "SYS_NICE", "IPC_LOCK", "MKNOD", "DAC_OVERRIDE", "CHOWN", "FOWNER")
_SECOND: Final = 1_000_000
WATCHDOG_USEC: Final = 300 * _SECOND
STOP_USEC: Final = 60 * _SECOND


@dataclass(frozen=True)
class UnitSpec:
    """One transient service. Descriptors are handed over beside it."""

    name: str
    properties: tuple[Property, ...]


@dataclass(frozen=True)
class UnitEnd:
    """How a unit ended, as systemd tells it. A unit that is gone reads as success there; here it is not `known`."""

    known: bool
    result: str
    """systemd.exec(5), $SERVICE_RESULT; "gone" for a unit that systemd does not know any more."""
    exit_status: int
    """Of the main process; -1 if not known."""
    exited: bool
    """Whether the main process exited, rather than being killed by a signal."""


def concluded(record: JobRecord, end: UnitEnd, now: int) -> JobRecord:
    """Given a job's record and how its unit ended, return the record with an end.

    What the worker recorded stands. A worker that could not record an end has failed, whatever systemd makes of its unit.
    """
    if record.outcome is not None:
        return record
    if end.result in {"timeout", "watchdog"}:
        reason = Reason.TIMED_OUT
    elif not record.started and end.known:
        reason = Reason.UNIT_FAILED
    else:
        reason = Reason.INTERRUPTED
    return record.model_copy(update={"outcome": Outcome.FAILED, "reason": reason.value, "ended": now, "detail": f"unit: {end.result}"})


def capability_mask(capabilities: tuple[str, ...]) -> int:
    """Given capability names without CAP_, return the bit mask of capabilities(7)."""
    return sum(1 << _CAPABILITY_BITS[name] for name in capabilities)


def job_unit(record: JobRecord, vault: Vault, target: DiskTarget | SshTarget, directory: str) -> UnitSpec:
    """The unit of one job. `directory` is the vault's directory below /var/lib/offsited, the one place it may write beside its target."""
    if record.kind is Kind.MOUNT:
        return _mount_unit(record, target)
    return UnitSpec(
        record.unit,
        (
            ("Description", "s", description(record)),
            ("Type", "s", "notify"),
            ("NotifyAccess", "s", "main"),
            ("ExecStart", "a(sasb)", [(PYTHON, [*WORKER, record.kind.value, record.vault, record.target, str(record.job)], False)]),
            ("AddRef", "b", True),
            ("WatchdogUSec", "t", WATCHDOG_USEC),
            ("TimeoutStartUSec", "t", 120 * _SECOND),
            ("TimeoutStopUSec", "t", STOP_USEC),
            ("KillMode", "s", "mixed"),
            ("Nice", "i", 5),
            ("CPUSchedulingPolicy", "i", _BATCH),
            ("RuntimeDirectory", "as", [names.runtime_directory(record.unit)]),
            ("RuntimeDirectoryMode", "u", 0o700),
            ("ReadWritePaths", "as", [directory, *_written(record.kind, target)]),
            ("LogExtraFields", "aay", _journal_fields(record)),
            ("CapabilityBoundingSet", "t", capability_mask(_capabilities(record.kind, target))),
            ("DevicePolicy", "s", "closed"),
            ("DeviceAllow", "a(ss)", _devices(record.kind, target)),
            ("PrivateNetwork", "b", isinstance(target, DiskTarget)),
            ("RestrictAddressFamilies", "(bas)", (True, _families(target))),
            ("PrivateTmp", "b", record.kind is not Kind.RESTORE and not _in_tmp(vault.source)),
            ("SystemCallFilter", "(bas)", (True, ["@system-service", "@mount"])),
            *_SANDBOX,
        ),
    )


def _mount_unit(record: JobRecord, target: DiskTarget | SshTarget) -> UnitSpec:
    """The unit of a mount that everybody is to see: nothing here makes a mount namespace. Whatever dies, its stop takes the mounts away."""
    arguments = [record.vault, record.target, str(record.job)]
    return UnitSpec(
        record.unit,
        (
            ("Description", "s", description(record)),
            ("Type", "s", "notify"),
            ("NotifyAccess", "s", "main"),
            ("ExecStart", "a(sasb)", [(PYTHON, [*WORKER, record.kind.value, *arguments], False)]),
            ("ExecStopPost", "a(sasb)", [(PYTHON, [*WORKER, "unmount", *arguments], False)]),
            ("AddRef", "b", True),
            ("WatchdogUSec", "t", WATCHDOG_USEC),
            ("TimeoutStartUSec", "t", 120 * _SECOND),
            ("TimeoutStopUSec", "t", STOP_USEC),
            ("KillMode", "s", "mixed"),
            ("RuntimeDirectory", "as", [names.runtime_directory(record.unit)]),
            ("RuntimeDirectoryMode", "u", 0o700),
            ("LogExtraFields", "aay", _journal_fields(record)),
            ("CapabilityBoundingSet", "t", capability_mask(_MOUNTING)),
            ("DevicePolicy", "s", "closed"),
            ("DeviceAllow", "a(ss)", _devices(record.kind, target)),
            ("RestrictAddressFamilies", "(bas)", (True, _families(target))),
            ("SystemCallFilter", "(bas)", (True, ["@system-service", "@mount"])),
            *(setting for setting in _SANDBOX if setting[0] in _WITHOUT_NAMESPACE),
        ),
    )


def notify_unit(vault: str, job: int, event: str, plain: str) -> UnitSpec:
    """The unit that judges a vault after a job's event, and sends what is due. `plain` is the vault's directory of that name."""
    return UnitSpec(
        names.notify_unit(vault, job, "" if event == TELL else event),
        (
            ("Description", "s", f"offsited: notices of vault {vault}"),
            ("Type", "s", "exec"),
            ("ExecStart", "a(sasb)", [(PYTHON, [*NOTIFIER, event, vault, str(job)], False)]),
            ("AddRef", "b", True),
            ("RuntimeMaxUSec", "t", 900 * _SECOND),
            ("LogExtraFields", "aay", [f"{names.FIELD_VAULT}={vault}".encode()]),
            ("InaccessiblePaths", "as", [f"-{plain}"]),
            *NOTIFYING,
        ),
    )


def as_settings(properties: tuple[Property, ...]) -> list[str]:
    """Given properties of plain types, return them as a unit file has them: NAME=VALUE."""
    return [f"{name}={_as_text(signature, value)}" for name, signature, value in properties]


def _as_text(signature: str, value: object) -> str:
    if signature == "b":
        return "yes" if value else "no"
    if isinstance(value, list):  # BindReadOnlyPaths
        return " ".join(f"{'-' if may_lack else ''}{source}" for source, _, may_lack, _ in value)
    return f"{value:04o}" if signature == "u" else str(value)  # the only numbers of this type are modes


def prove_unit(vault: str) -> UnitSpec:
    """The short unit that opens a vault's key file with the passphrase on its standard input. Its exit status is the answer."""
    return UnitSpec(
        names.prove_unit(vault),
        (
            ("Description", "s", f"offsited: proving the passphrase of vault {vault}"),
            ("Type", "s", "exec"),
            ("ExecStart", "a(sasb)", [(PYTHON, [*WORKER, "prove", vault], False)]),
            ("AddRef", "b", True),
            ("RuntimeMaxUSec", "t", 60 * _SECOND),
            ("StandardOutput", "s", "null"),
            ("LogExtraFields", "aay", [f"{names.FIELD_VAULT}={vault}".encode()]),
            ("CapabilityBoundingSet", "t", 0),
            ("DevicePolicy", "s", "closed"),
            ("PrivateNetwork", "b", True),
            ("RestrictAddressFamilies", "(bas)", (True, ["AF_UNIX"])),
            ("PrivateTmp", "b", True),
            ("SystemCallFilter", "(bas)", (True, ["@system-service"])),
            *_SANDBOX,
        ),
    )


def ask_unit(vault: Vault) -> UnitSpec:
    """The short unit that fetches a vault's passphrase from its credential or by its command; a memfd takes its standard output."""
    command = decrypt_command(vault.credential) if vault.credential else list(vault.passphrase_command)
    return UnitSpec(
        names.ask_unit(vault.name),
        (
            ("Description", "s", f"offsited: fetching the passphrase of vault {vault.name} by {vault.entered_by}"),
            ("Type", "s", "exec"),
            ("ExecStart", "a(sasb)", [(command[0], command, False)]),
            ("AddRef", "b", True),
            ("RuntimeMaxUSec", "t", 60 * _SECOND),
            ("LogExtraFields", "aay", [f"{names.FIELD_VAULT}={vault.name}".encode()]),
            ("CollectMode", "s", "inactive-or-failed"),
            ("Slice", "s", names.SLICE),
            ("LimitCORE", "t", 0),
            ("UMask", "u", 0o077),
        ),
    )


def clear_unit(vault: str, device: str) -> UnitSpec:
    """The short unit that takes away what is left of disks that were pulled out, and has udev look again at those that came back."""
    return UnitSpec(
        names.clear_unit(device),
        (
            ("Description", "s", f"offsited: clearing away {device} of vault {vault}, whose disks are gone"),
            ("Type", "s", "exec"),
            ("ExecStart", "a(sasb)", [(PYTHON, [*CLEARER, device], False)]),
            ("AddRef", "b", True),
            ("RuntimeMaxUSec", "t", 120 * _SECOND),
            ("ReadWritePaths", "as", list(_TAKING_APART)),
            ("LogExtraFields", "aay", [f"{names.FIELD_VAULT}={vault}".encode()]),
            ("CapabilityBoundingSet", "t", capability_mask(("SYS_ADMIN",))),
            ("DevicePolicy", "s", "closed"),
            ("DeviceAllow", "a(ss)", list(_MADE_OF_DISKS)),
            ("PrivateNetwork", "b", True),
            ("RestrictAddressFamilies", "(bas)", (True, ["AF_UNIX"])),
            ("PrivateTmp", "b", True),
            ("SystemCallFilter", "(bas)", (True, ["@system-service"])),
            *(setting for setting in _SANDBOX if setting[0] != "ProtectKernelTunables"),  # udev is told through sysfs
        ),
    )


def prepare_unit(vault: str, devices: Iterable[str] = ()) -> UnitSpec:
    """The unit in which root prepares a disk target: it may do what takes RAID, LVM and a file system, and touch the named devices alone.

    Without devices it looks: lsblk leaves out what it must not read.

    What breaks it: PrivateIPC (LVM waits for udev by a semaphore), PrivateNetwork (udevadm waits for uevents), ProtectKernelTunables (sysfs
    drives arrays). The modules make the groups of devices known that DeviceAllow= names.
    """
    loaded = [f"modprobe@{module}.service" for module in ("md_mod", "dm_mod")]
    made = ("/dev/mapper/control rw", "block-md rwm", "block-device-mapper rwm", "block-blkext rwm")
    named = [f"{device} rwm" for device in devices]
    allowed = [*made, *named] if named else ["block-* r"]
    unit = names.prepare_unit(vault)
    return UnitSpec(
        unit,
        (
            ("Description", "s", f"offsited: preparing a disk for vault {vault}"),
            *((setting, "s", module) for module in loaded for setting in ("Wants", "After")),
            ("RuntimeDirectory", "s", names.runtime_directory(unit)),
            ("RuntimeDirectoryMode", "u", 0o700),
            ("TimeoutStopSec", "s", "10min"),
            ("LogExtraFields", "s", f"{names.FIELD_VAULT}={vault}"),
            ("ReadWritePaths", "s", "-/etc/lvm -/run/lock -/run/lvm -/run/mdadm"),
            ("CapabilityBoundingSet", "s", " ".join(f"CAP_{name}" for name in _PREPARING)),
            ("DevicePolicy", "s", "closed"),
            *(("DeviceAllow", "s", device) for device in allowed),
            ("IPAddressDeny", "s", "any"),
            ("RestrictAddressFamilies", "s", "AF_UNIX AF_NETLINK"),
            ("PrivateTmp", "b", True),
            ("SystemCallFilter", "s", "@system-service @mount"),
            ("RestrictNamespaces", "b", True),
            ("SystemCallArchitectures", "s", "native"),
            ("LimitCORE", "s", "0"),
            *(setting for setting in _SANDBOX if setting[0] not in _NOT_FOR_PREPARING),
        ),
    )


def decrypt_command(credential: str) -> list[str]:
    """The command that prints a credential of this machine, systemd-creds(1)."""
    return ["/usr/bin/systemd-creds", "decrypt", f"--name={credential}", "--newline=no", str(names.CREDSTORE / credential), "-"]


def description(record: JobRecord) -> str:
    """What `systemctl status` shows; also how a job is told from another one of the same unit name."""
    return f"offsited job {record.job}: {record.kind} of vault {record.vault}, target {record.target}"


def _journal_fields(record: JobRecord) -> list[bytes]:
    fields = {names.FIELD_VAULT: record.vault, names.FIELD_TARGET: record.target, names.FIELD_JOB: str(record.job)}
    return [f"{name}={value}".encode() for name, value in fields.items()]


def _capabilities(kind: Kind, target: DiskTarget | SshTarget) -> tuple[str, ...]:
    """What the worker needs at most; rsync and ssh get less (core.rsync)."""
    if kind in {Kind.RESTORE, Kind.RESTORE_TEST}:
        return _MOUNTING + _WRITING_FILES + _RESTORING
    if kind in {Kind.VERIFY, Kind.ADOPT}:  # what a host's mirror has is fetched as it is, owners and nodes too
        return _MOUNTING + (() if isinstance(target, DiskTarget) else _WRITING_FILES)
    return _MOUNTING + (_WRITING_FILES if isinstance(target, DiskTarget) else ())


def _devices(kind: Kind, target: DiskTarget | SshTarget) -> list[tuple[str, str]]:
    devices = [("/dev/fuse", "rw")]
    if isinstance(target, DiskTarget):
        devices.append((target.device, "rw"))
    if _takes_apart(kind, target):
        devices += _MADE_OF_DISKS
    if isinstance(target, DiskTarget) or kind is not Kind.SYNC:
        devices += [("block-*", "m"), ("char-*", "m")]
    return devices


def _written(kind: Kind, target: DiskTarget | SshTarget) -> list[str]:
    """What may be missing: the mount point of a disk that somebody else has mounted, and what a seal needs to take apart an array."""
    point = [f"-{target.path}"] if isinstance(target, DiskTarget) and target.path and kind in WRITING else []
    return [*point, *(_TAKING_APART if _takes_apart(kind, target) else ())]


def _takes_apart(kind: Kind, target: DiskTarget | SshTarget) -> bool:
    """Whether the volume and the array are taken apart in the end; those below what somebody else has mounted are not ours to take."""
    return kind is Kind.SEAL and isinstance(target, DiskTarget) and target.path is None


def _families(target: DiskTarget | SshTarget) -> list[str]:
    return ["AF_UNIX"] if isinstance(target, DiskTarget) else ["AF_UNIX", "AF_INET", "AF_INET6"]


def _in_tmp(source: Source) -> bool:
    """Whether PrivateTmp would hide the snapshot, or the file that names it."""
    return any(PurePosixPath(path).is_relative_to(tmp) for path in (source.root, source.path) for tmp in ("/tmp", "/var/tmp"))  # noqa: S108


_SANDBOX: Final[tuple[Property, ...]] = (
    ("CollectMode", "s", "inactive-or-failed"),
    ("Slice", "s", names.SLICE),
    ("SyslogIdentifier", "s", "offsited-worker"),
    ("PrivateMounts", "b", True),
    ("ProtectSystem", "s", "strict"),
    ("ProtectHome", "s", "read-only"),
    ("NoNewPrivileges", "b", True),
    ("ProtectKernelTunables", "b", True),
    ("ProtectKernelModules", "b", True),
    ("ProtectKernelLogs", "b", True),
    ("ProtectControlGroups", "b", True),
    ("ProtectClock", "b", True),
    ("ProtectHostname", "b", True),
    ("ProtectProc", "s", "invisible"),
    ("PrivateIPC", "b", True),
    ("LockPersonality", "b", True),
    ("RestrictRealtime", "b", True),
    ("MemoryDenyWriteExecute", "b", True),
    ("RestrictNamespaces", "t", 0),
    ("SystemCallArchitectures", "as", ["native"]),
    ("KeyringMode", "s", "private"),
    ("LimitCORE", "t", 0),
    ("UMask", "u", 0o077),
)

_NOT_FOR_PREPARING: Final = frozenset({
    "CollectMode", "PrivateIPC", "ProtectKernelTunables", "RestrictNamespaces", "SystemCallArchitectures", "LimitCORE",
})  # fmt: skip
_WITHOUT_NAMESPACE: Final = frozenset({
    "CollectMode", "Slice", "SyslogIdentifier", "NoNewPrivileges", "LockPersonality", "RestrictRealtime", "MemoryDenyWriteExecute",
    "RestrictNamespaces", "SystemCallArchitectures", "KeyringMode", "LimitCORE", "UMask",
})  # fmt: skip
"""Those of `_SANDBOX` for which systemd makes no mount namespace."""
NOTIFYING: Final[tuple[Property, ...]] = (
    ("CollectMode", "s", "inactive-or-failed"),
    ("Slice", "s", names.SLICE),
    ("SyslogIdentifier", "s", names.NOTIFY_IDENTIFIER),
    # A mail transfer agent may go on delivering in the background; that is its own affair.
    ("KillMode", "s", "process"),
    # Mail needs setgid helpers and their spools, so neither NoNewPrivileges nor a strict ProtectSystem is possible here.
    ("ProtectSystem", "s", "full"),
    ("ProtectKernelTunables", "b", True),
    ("ProtectKernelModules", "b", True),
    ("ProtectKernelLogs", "b", True),
    ("ProtectControlGroups", "b", True),
    ("ProtectClock", "b", True),
    ("PrivateDevices", "b", True),
    # Which device holds a target's file system: the links, not the devices.
    ("BindReadOnlyPaths", "a(ssbt)", [("/dev/disk", "/dev/disk", True, 0)]),
    ("LockPersonality", "b", True),
    ("RestrictRealtime", "b", True),
    ("KeyringMode", "s", "private"),
    ("LimitCORE", "t", 0),
    ("UMask", "u", 0o077),
)
"""What runs where notices are sent; `offsited-watch.service` has the same."""
