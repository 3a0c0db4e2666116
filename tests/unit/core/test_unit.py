# SPDX-License-Identifier: GPL-3.0-or-later
"""The transient units of jobs."""

import re

import pytest

from offsited.core import config, unit
from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord, Kind

DISK = config.DiskTarget(name="seed", kind="disk", label="OFFSITE", directory="home")
SSH = config.SshTarget(name="vps", kind="ssh", host="u@h", directory="/srv/x", identity="/etc/offsited/id_home")
DIRECTORY = "/var/lib/offsited/vaults/home"


def vault(path: str = "/secretdir/lastdst", root: str = "/secretdir", kind: str = "lastdst") -> config.Vault:
    source = config.Source.model_validate({"kind": kind, "path": path, "root": root, "exclude": ("secretfile",)})
    return config.Vault(name="home", source=source, target=(DISK, SSH), passphrase_command=("/bin/pass", "show"))


def record(kind: Kind = Kind.SYNC) -> JobRecord:
    return JobRecord(job=7, kind=kind, vault="home", target="seed", unit="offsited-job-home.service", requested=1)


def properties(spec: unit.UnitSpec) -> dict[str, object]:
    names = [name for name, _, _ in spec.properties]
    assert len(set(names)) == len(names)
    return {name: value for name, _, value in spec.properties}


TARGETS: tuple[config.DiskTarget | config.SshTarget, ...] = (DISK, SSH)
SPECS = [unit.job_unit(record(kind), vault(), target, DIRECTORY) for kind in Kind if kind is not Kind.MOUNT for target in TARGETS] + [
    unit.prove_unit("home"),
    unit.clear_unit("home", "dm-0"),
]


@pytest.mark.parametrize("spec", SPECS)
def test_no_users_file_and_no_secret_is_in_a_property(spec: unit.UnitSpec) -> None:
    """Everybody may read the properties of a unit."""
    assert "secret" not in repr(spec)


@pytest.mark.parametrize("spec", SPECS)
def test_what_breaks_fuse_openat2_or_the_privacy_of_mounts_is_left_out(spec: unit.UnitSpec) -> None:
    breaking = {"RestrictSUIDSGID", "PrivateDevices", "PrivateUsers", "MountFlags", "BindReadOnlyPaths", "BindPaths"}
    assert not breaking & set(properties(spec))


@pytest.mark.parametrize("spec", SPECS)
def test_what_every_worker_has(spec: unit.UnitSpec) -> None:
    found = properties(spec)
    for name, value in {
        "PrivateMounts": True,
        "ProtectSystem": "strict",
        "NoNewPrivileges": True,
        "LimitCORE": 0,
        "UMask": 0o077,
        "Slice": "offsited.slice",
        "DevicePolicy": "closed",
        "CollectMode": "inactive-or-failed",
        "AddRef": True,
        "KeyringMode": "private",
        "RestrictNamespaces": 0,
    }.items():
        assert found[name] == value
    assert b"OFFSITED_VAULT=home" in found["LogExtraFields"]  # type: ignore[operator]


def _bits(*numbers: int) -> int:
    """capabilities(7), linux/capability.h."""
    return sum(1 << number for number in numbers)


CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETPCAP = 0, 1, 2, 3, 4, 8
IMMUTABLE, SYS_ADMIN, SYS_RESOURCE, MKNOD, SETFCAP = 9, 21, 24, 27, 31
MOUNTING = _bits(SYS_ADMIN, DAC_READ_SEARCH, SETPCAP)
WRITING = MOUNTING | _bits(CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD)
RESTORING = WRITING | _bits(SETFCAP, IMMUTABLE, SYS_RESOURCE)


@pytest.mark.parametrize(
    ("kind", "target", "mask"),
    [(Kind.SYNC, SSH, MOUNTING), (Kind.SYNC, DISK, WRITING), (Kind.RESTORE, SSH, RESTORING), (Kind.RESTORE, DISK, RESTORING)],
)
def test_a_job_has_the_capabilities_that_it_needs(kind: Kind, target: config.DiskTarget | config.SshTarget, mask: int) -> None:
    assert properties(unit.job_unit(record(kind), vault(), target, DIRECTORY))["CapabilityBoundingSet"] == mask


def test_proving_needs_nothing() -> None:
    found = properties(unit.prove_unit("home"))
    assert (found["CapabilityBoundingSet"], found["PrivateNetwork"], found["StandardOutput"]) == (0, True, "null")
    assert "ReadWritePaths" not in found


def test_a_job_for_a_disk_has_no_network_and_one_for_a_host_no_disk() -> None:
    disk = properties(unit.job_unit(record(), vault(), DISK, DIRECTORY))
    host = properties(unit.job_unit(record(), vault(), SSH, DIRECTORY))
    assert (disk["PrivateNetwork"], disk["RestrictAddressFamilies"]) == (True, (True, ["AF_UNIX"]))
    assert (host["PrivateNetwork"], host["RestrictAddressFamilies"]) == (False, (True, ["AF_UNIX", "AF_INET", "AF_INET6"]))
    assert ("/dev/disk/by-label/OFFSITE", "rw") in disk["DeviceAllow"]  # type: ignore[operator]
    assert host["DeviceAllow"] == [("/dev/fuse", "rw")]


def test_a_restore_may_make_device_nodes_and_none_may_open_them() -> None:
    devices = properties(unit.job_unit(record(Kind.RESTORE), vault(), SSH, DIRECTORY))["DeviceAllow"]
    assert devices == [("/dev/fuse", "rw"), ("block-*", "m"), ("char-*", "m")]


def test_what_runs_and_where_it_may_write() -> None:
    spec = unit.job_unit(record(), vault(), DISK, DIRECTORY)
    found = properties(spec)
    assert spec.name == "offsited-job-home.service"
    command = ["/usr/bin/python3", "-I", "-m", "offsited.worker", "sync", "home", "seed", "7"]
    assert found["ExecStart"] == [("/usr/bin/python3", command, False)]
    assert (found["ReadWritePaths"], found["RuntimeDirectory"]) == ([DIRECTORY], ["offsited-job-home"])
    assert (found["Type"], found["NotifyAccess"]) == ("notify", "main")
    assert found["Description"] == "offsited job 7: sync of vault home, target seed"


@pytest.mark.parametrize(
    ("path", "root", "hidden"),
    [
        ("/backup/lastdst", "/backup", True),
        ("/tmp/b/lastdst", "/tmp/b", False),
        ("/var/tmp/b/lastdst", "/var/tmp/b", False),
        ("/tmp/lastdst", "/backup", False),
        ("/tmpfiles/lastdst", "/tmpfiles", True),
    ],
)
def test_tmp_is_private_unless_the_source_is_there(path: str, root: str, hidden: bool) -> None:  # noqa: FBT001 - a table
    """PrivateTmp would hide the snapshot, or the file that names it."""
    assert properties(unit.job_unit(record(), vault(path, root), DISK, DIRECTORY))["PrivateTmp"] is hidden


def test_tmp_is_never_private_for_a_restore() -> None:
    """The destination may be there."""
    assert properties(unit.job_unit(record(Kind.RESTORE), vault(), DISK, DIRECTORY))["PrivateTmp"] is False


def test_the_passphrase_command_runs_as_it_stands() -> None:
    spec = unit.ask_unit(vault())
    found = properties(spec)
    assert spec.name == "offsited-ask-home.service"
    assert found["ExecStart"] == [("/bin/pass", ["/bin/pass", "show"], False)]
    assert (found["LimitCORE"], found["UMask"]) == (0, 0o077)


def test_a_credential_is_decrypted_by_systemd() -> None:
    sealed = vault().model_copy(update={"passphrase_command": (), "credential": "offsited-home"})
    assert (vault().entered_by, sealed.entered_by) == ("command", "credential")
    decrypt = ["/usr/bin/systemd-creds", "decrypt", "--name=offsited-home", "--newline=no", "/etc/credstore.encrypted/offsited-home", "-"]
    assert properties(unit.ask_unit(sealed))["ExecStart"] == [(decrypt[0], decrypt, False)]


def test_the_mask_of_capabilities() -> None:
    assert unit.capability_mask(()) == 0
    assert unit.capability_mask(("CHOWN", "SYS_ADMIN")) == 1 | 1 << 21


GONE = unit.UnitEnd(known=False, result="gone", exit_status=-1, exited=False)
CLEAN = unit.UnitEnd(known=True, result="success", exit_status=0, exited=True)
KILLED = unit.UnitEnd(known=True, result="signal", exit_status=9, exited=False)


@pytest.mark.parametrize(
    ("started", "end", "reason"),
    [
        (5, GONE, Reason.INTERRUPTED),
        (5, CLEAN, Reason.INTERRUPTED),
        (5, KILLED, Reason.INTERRUPTED),
        (0, GONE, Reason.INTERRUPTED),
        (0, KILLED, Reason.UNIT_FAILED),
        (0, CLEAN, Reason.UNIT_FAILED),
        (5, unit.UnitEnd(known=True, result="watchdog", exit_status=6, exited=False), Reason.TIMED_OUT),
        (0, unit.UnitEnd(known=True, result="timeout", exit_status=15, exited=False), Reason.TIMED_OUT),
    ],
)
def test_a_worker_that_recorded_no_end_has_failed(started: int, end: unit.UnitEnd, reason: Reason) -> None:
    """Whatever systemd makes of its unit; one that is gone reads as success there."""
    found = unit.concluded(record().model_copy(update={"started": started}), end, 9)
    assert (found.outcome, found.reason, found.ended) == (Outcome.FAILED, reason.value, 9)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("end", [GONE, CLEAN, KILLED])
def test_what_the_worker_recorded_stands(outcome: Outcome, end: unit.UnitEnd) -> None:
    done = record().model_copy(update={"outcome": outcome, "ended": 3})
    assert unit.concluded(done, end, 9) == done


@pytest.mark.parametrize("target", TARGETS)
def test_a_mount_s_unit_has_nothing_that_would_hide_it(target: config.DiskTarget | config.SshTarget) -> None:
    """systemd.exec(5): each of these makes a mount namespace."""
    spec = unit.job_unit(record(Kind.MOUNT), vault(), target, DIRECTORY)
    found = properties(spec)
    hiding = re.compile(r"Private|Protect|ReadWritePaths|ReadOnlyPaths|Inaccessible|Bind|Mount|TemporaryFileSystem|RootDirectory")
    assert [name for name in found if hiding.match(name)] == []
    assert (found["NoNewPrivileges"], found["LimitCORE"], found["DevicePolicy"]) == (True, 0, "closed")
    assert "secret" not in repr(spec)


def test_the_unit_of_notices_can_run_a_mail_transfer_agent_and_cannot_see_the_key() -> None:
    spec = unit.notify_unit("home", 5, unit.TELL, "/var/lib/offsited/vaults/home/plain")
    found = {name: value for name, _, value in spec.properties}
    assert spec.name == "offsited-notify-home-5.service"
    assert unit.notify_unit("home", 5, unit.START, "/p").name == "offsited-notify-home-5-start.service"
    assert found["ExecStart"] == [(unit.PYTHON, [*unit.NOTIFIER, "tell", "home", "5"], False)]
    assert found["InaccessiblePaths"] == ["-/var/lib/offsited/vaults/home/plain"]
    assert found["KillMode"] == "process"
    assert not {"NoNewPrivileges", "PrivateNetwork", "RestrictSUIDSGID", "CapabilityBoundingSet"} & set(found)


def test_properties_as_a_unit_file_has_them() -> None:
    properties = (("ProtectClock", "b", True), ("UMask", "u", 0o077), ("LimitCORE", "t", 0), ("KillMode", "s", "process"))
    assert unit.as_settings(properties) == ["ProtectClock=yes", "UMask=0077", "LimitCORE=0", "KillMode=process"]


@pytest.mark.parametrize(("kind", "writable"), [(Kind.SYNC, True), (Kind.SEAL, True), (Kind.VERIFY, False), (Kind.RESTORE, False)])
def test_what_somebody_else_has_mounted_is_writable_to_those_who_write(kind: Kind, writable: bool) -> None:  # noqa: FBT001
    lent = DISK.model_copy(update={"path": "/mnt/offsite"})
    found = properties(unit.job_unit(record(kind), vault(), lent, DIRECTORY))["ReadWritePaths"]
    assert found == [DIRECTORY, "-/mnt/offsite"] if writable else [DIRECTORY]


def test_who_lets_go_of_a_disk_may_take_apart_what_lies_on_it() -> None:
    """And whoever clears away what is left of disks, these alone. One that somebody else has mounted is left as it is."""
    control, arrays = ("/dev/mapper/control", "rw"), ("block-md", "rw")
    seal = properties(unit.job_unit(record(Kind.SEAL), vault(), DISK, DIRECTORY))
    assert {control, arrays, ("/dev/disk/by-label/OFFSITE", "rw")} <= set(seal["DeviceAllow"])  # type: ignore[call-overload]
    assert seal["ReadWritePaths"] == [DIRECTORY, "-/run/lvm", "-/run/mdadm"]
    lent = DISK.model_copy(update={"path": "/mnt/offsite"})
    for kind, target in ((Kind.SEAL, lent), (Kind.SYNC, DISK), (Kind.VERIFY, DISK)):
        allowed = properties(unit.job_unit(record(kind), vault(), target, DIRECTORY))["DeviceAllow"]
        assert not {control, arrays} & set(allowed)  # type: ignore[call-overload]
    clear = properties(unit.clear_unit("home", "dm-0"))
    assert clear["DeviceAllow"] == [control, arrays]
    assert clear["CapabilityBoundingSet"] == _bits(SYS_ADMIN)


def test_an_adoption_may_fetch_owners_and_nodes_and_write_nowhere_else() -> None:
    found = properties(unit.job_unit(record(Kind.ADOPT), vault(), SSH, DIRECTORY))
    assert found["ReadWritePaths"] == [DIRECTORY]
    assert (
        found["CapabilityBoundingSet"] == properties(unit.job_unit(record(Kind.VERIFY), vault(), SSH, DIRECTORY))["CapabilityBoundingSet"]
    )


def test_who_prepares_a_disk_touches_the_named_ones_alone_and_who_looks_none() -> None:
    def allowed(spec: unit.UnitSpec) -> list[str]:
        return [str(value) for name, _, value in spec.properties if name == "DeviceAllow"]

    making = unit.prepare_unit("home", ["/dev/sdb"])
    assert [device for device in allowed(making) if not device.startswith(("block-", "/dev/mapper/control "))] == ["/dev/sdb rwm"]
    assert "block-* rwm" not in allowed(making)
    assert allowed(unit.prepare_unit("home")) == ["block-* r"]
    chosen = {name: value for name, _, value in making.properties}
    assert {"PrivateIPC", "PrivateNetwork", "ProtectKernelTunables"} & set(chosen) == set(), (
        "measured: LVM, udevadm and md need what they take"
    )
    assert (chosen["DevicePolicy"], chosen["PrivateMounts"], chosen["NoNewPrivileges"]) == ("closed", True, True)
    assert chosen["RestrictAddressFamilies"] == "AF_UNIX AF_NETLINK"
