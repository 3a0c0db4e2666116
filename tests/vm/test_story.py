# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole life of a seed: three empty disks at home, filled as they come and go, sealed, carried to another machine, adopted there, and
then a day of which only the changes go over the line."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .guest import Guest, Link, running
from .homes import JOB, NAME, SNAPSHOTS, Home

DISKS = ("first", "second", "third")
ELSEWHERE = "10.77.0.2"
FILES, SIZE = 24, 1_000_000
"""Of a snapshot, in bytes that do not compress; they take a while at `RATE`."""
RATE = "1M"
CHANGED = 3 * SIZE
OVERHEAD = 200_000
"""Bytes that a sync may send beside what has changed, and a tenth of that."""
LOST_WITHIN = 60.0
"""Seconds until a job has ended whose disks were pulled out: emulated ones."""
LEFT = "ls /sys/class/block | grep -E '^(md|dm-)'"
"""Arrays and volumes that the kernel has."""


@dataclass(frozen=True)
class Machines:
    """`home`, and the one where the disks end, which knows nothing of offsited. Both are off."""

    home: Guest
    elsewhere: Guest


@pytest.fixture
def machines(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Iterator[Machines]:
    cable, kept = tmp_path / "cable", Path(os.environ["OFFSITED_VM_OUT"]) / request.node.name
    rooms = [tmp_path / name for name in ("home", "elsewhere")]
    for room in rooms:
        room.mkdir()
    with (
        running(made, rooms[0], kept / "home", Link(cable, "10.77.0.1/24", listens=True)) as home,
        running(made, rooms[1], kept / "elsewhere", Link(cable, f"{ELSEWHERE}/24")) as elsewhere,
    ):
        yield Machines(home, elsewhere)


def test_a_seed_is_filled_pulled_out_sealed_carried_and_adopted(machines: Machines) -> None:
    guest = machines.home
    guest.boot()
    home = _prepared(guest)
    _pulled_out_while_nothing_runs(guest)
    _wakes_the_daemon_and_is_filled(guest)
    _pulled_out_while_it_is_filled(guest, home)
    _goes_on_when_it_is_back(guest, home)
    _loses_one_disk(guest, home)
    commands = _sealed(guest)
    images = [image for disk in DISKS for image in guest.unplug(disk)]
    machines.elsewhere.boot()
    _put_into_place(machines.elsewhere, images, commands, home.authorized_keys)
    _adopted(machines)
    _a_changed_day(guest, home)
    _decrypts_equal(guest)


# --- at home ---------------------------------------------------------------------------------------------------------


def _prepared(guest: Guest) -> Home:
    """Three disks as one target, and a host that gets them."""
    for disk in DISKS:
        guest.plug(disk)
    home = Home(guest, "seed=disk:LABEL=SEED", f"vps=ssh:root@{ELSEWHERE}/srv/offsite/home")
    devices = [f"/dev/disk/by-id/virtio-{disk}" for disk in DISKS]
    options = ["--raid", "5", "--lvm", "--confirm", *DISKS]
    guest.must("offsitectl", "target", "prepare", NAME, "seed", "--devices", *devices, *options)
    home.edit("^# on_arrival = .*$", f'on_arrival = "sync"\nbandwidth = "{RATE}"')
    home.edit('^kind = "ssh"\n', 'kind = "ssh"\nseed = "seed"\ndefault = true\n')
    return home


def _pulled_out_while_nothing_runs(guest: Guest) -> None:
    """Neither array nor volume is left in the way of the disks' return."""
    guest.pull(*DISKS)
    guest.until(f"! {LEFT}")
    assert _state(guest, "seed") == "absent"


def _wakes_the_daemon_and_is_filled(guest: Guest) -> None:
    """udev has a stopped daemon started, which starts the sync; that may open its disk, and no other."""
    _next_snapshot(guest, "2026-01-02", f"mkdir bulk; for n in $(seq {FILES}); do head -c {SIZE} /dev/urandom > bulk/$n; done")
    guest.must("systemctl", "stop", "offsited.service")
    for disk in DISKS:
        guest.plug(disk)
    guest.until_logged("the disk of target seed is here; syncing", "-u", "offsited.service")
    guest.until(f"systemctl show --property=StatusText {JOB} | grep -E '^StatusText=sending: [0-9]{{7}}'")
    control = guest.must("systemctl", "show", "--property=ControlGroup", "--value", JOB).strip()
    inside = f"echo $$ > /sys/fs/cgroup{control}/cgroup.procs && head -c 1"
    assert guest.run("sh", "-c", f"{inside} /dev/disk/by-label/SEED | wc -c").stdout == "1\n"
    refused = guest.run("sh", "-c", f"{inside} /dev/disk/by-label/vm-root")
    assert "Operation not permitted" in refused.stderr, refused


def _pulled_out_while_it_is_filled(guest: Guest, home: Home) -> None:
    """The job ends, and nothing was written where the disk had been."""
    guest.must("sync")  # what has reached the disk need not be sent again
    guest.must("touch", "/root/pulled")
    began = time.monotonic()
    guest.pull(*DISKS)
    guest.until_logged("^job 1, ", "-u", "offsited.service")
    lost = time.monotonic() - began
    (job,) = home.jobs()
    assert (job["outcome"], job["reason"]) == ("failed", "target-lost")
    assert lost < LOST_WITHIN
    guest.until(f"! {LEFT}")
    assert guest.must("find", "/", "-xdev", "-newer", "/root/pulled", "-size", "+500k", "!", "-path", "/var/log/*") == ""
    assert "degraded" not in guest.must("offsitectl", "status")
    print(f"pulled out in mid-seed: the job had ended after {lost:.1f} s, {job['sent_bytes']} bytes in")


def _goes_on_when_it_is_back(guest: Guest, home: Home) -> None:
    for disk in DISKS:
        guest.plug(disk)
    guest.until_logged("^job 2, ", "-u", "offsited.service")
    job = home.jobs()[0]
    assert job["outcome"] == "done"
    assert 0 < job["sent_bytes"] < FILES * SIZE
    assert home.told() == ["failed", "recovered"]


def _loses_one_disk(guest: Guest, home: Home) -> None:
    """It is told, and syncs go on; the disk is put back."""
    guest.unplug("second")
    _next_snapshot(guest, "2026-01-03", "echo second > two; ln one linked; ln -s two symlink; chmod 4711 two; chown 12:34 symlink -h")
    assert home.synced("--timed")["target"] == "seed"
    assert home.told()[2:] == ["degraded"]
    assert "degraded: an array that the target lies on lacks a disk" in guest.must("offsitectl", "status")
    guest.plug("second")
    guest.must("sh", "-c", "mdadm /dev/md/* --add /dev/disk/by-id/virtio-second && { mdadm --wait /dev/md/* || [ $? = 1 ]; }")
    assert home.told()[2:] == ["degraded", "recovered"]


def _sealed(guest: Guest) -> list[str]:
    """Not while somebody has it mounted; then it is let go of altogether. Return the commands for the other machine."""
    guest.must("mount", "/dev/disk/by-label/SEED", "/mnt")
    refused = guest.run("offsitectl", "target", "seal", NAME, "seed")
    assert (refused.status, "not safe to remove" in refused.stderr) == (1, True), refused
    guest.must("umount", "/mnt")
    ended = guest.run("offsitectl", "target", "seal", NAME, "seed", "--json")
    assert ended.status == 0, ended
    assert guest.run("sh", "-c", LEFT).stdout == ""
    return [line.strip() for line in ended.json["told"] if line.startswith("    ") and "offsitectl" not in line]


# --- elsewhere -------------------------------------------------------------------------------------------------------


def _put_into_place(guest: Guest, images: list[Path], commands: list[str], key: str) -> None:
    """udev assembles the array, whole, under its name; the volume is mounted as the seal has told; an sshd lets home in."""
    for disk, image in zip(DISKS, images, strict=True):
        guest.plug(disk, image=image)
    guest.must("udevadm", "wait", "--settle", "--timeout=120", "/dev/disk/by-label/SEED")
    assert "[UUU]" in guest.must("cat", "/proc/mdstat")
    guest.must("sh", "-ec", "\n".join(commands))
    guest.must("install", "-D", "-m", "0600", "/dev/stdin", "/root/.ssh/authorized_keys", stdin=f"{key}\n")
    guest.must("sh", "-c", "ssh-keygen -A && systemctl start ssh.service")


def _adopted(machines: Machines) -> None:
    shown = machines.elsewhere.must("ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    guest = machines.home
    guest.must("offsitectl", "target", "trust", NAME, "vps", "--fingerprint", shown)
    before = _sent(guest)
    guest.must("offsitectl", "target", "adopt", NAME, "vps", "--from", "seed")
    adopting = _sent(guest) - before
    assert adopting <= OVERHEAD
    print(f"adopted: {adopting} bytes sent over the link")


def _a_changed_day(guest: Guest, home: Home) -> None:
    """Three files are new, one of them for the first time; one is gone. All that leaves home counts: rsync, ssh, TCP, ARP."""
    new = f"for n in 3 4 new; do rm -f bulk/$n; head -c {SIZE} /dev/urandom > bulk/$n; done; rm bulk/5"
    _next_snapshot(guest, "2026-01-04", new)
    before = _sent(guest)
    told = home.synced("--timed")
    sent = _sent(guest) - before
    assert (told["target"], told["sent_bytes"], told["deleted_entries"]) == ("vps", CHANGED, 1)
    assert CHANGED < sent <= CHANGED * 1.1 + OVERHEAD
    print(f"a changed day: {CHANGED} bytes changed, {sent} sent over the link, {CHANGED * 11 // 10 + OVERHEAD} allowed")


def _decrypts_equal(guest: Guest) -> None:
    """What comes back from the other machine is the snapshot: content, and what there is of each entry."""
    guest.must("offsitectl", "restore", NAME, "--target", "vps", "--to", "/srv/restored")
    guest.must("diff", "-r", "--no-dereference", f"{SNAPSHOTS}/2026-01-04", "/srv/restored")
    guest.must("test", "/srv/restored/one", "-ef", "/srv/restored/linked")
    facts = "%P|%y|%m|%U|%G|%T@|%l"
    listed = f"find . -type d -printf '{facts}\\n' -o -printf '{facts}|%s\\n' | sort"
    here, back = (guest.must("sh", "-c", f"cd {top} && {listed}") for top in (f"{SNAPSHOTS}/2026-01-04", "/srv/restored"))
    assert here == back


# --- looking and doing -----------------------------------------------------------------------------------------------


def _next_snapshot(guest: Guest, name: str, script: str) -> None:
    """A hardlinked copy of the newest one, changed by this script, is the newest one from now on."""
    top = f"{SNAPSHOTS}/{name}"
    guest.must("sh", "-ec", f'cp -al "$(cat {SNAPSHOTS}/lastdst)" {top}; cd {top}; {script}; echo {top} > {SNAPSHOTS}/lastdst')


def _state(guest: Guest, target: str) -> str:
    found = guest.run("offsitectl", "status", NAME, "--json").json["vaults"][0]["targets"]
    return next(str(one["state"]) for one in found if one["name"] == target)


def _sent(guest: Guest) -> int:
    """Bytes that have left home over the link, as the kernel has counted."""
    return int(guest.must("cat", "/sys/class/net/link/statistics/tx_bytes"))
