# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine: its power, commands on it, its console, its disks, its link to another one. qemu(1), software emulation."""

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .peer import Peer

PATIENCE = 400.0
"""Seconds that anything may take before it counts as hung: every instruction is emulated, on a machine that others use too."""
MEMORY = "1024"
"""MiB. There is one processor: with two, a kernel that patches itself was seen to die under emulation (int3 in the scheduler)."""
DISK = 512 << 20
"""Bytes of a disk, hardly any of them used."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The last object of a command that printed --json."""
        document: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return document


@dataclass(frozen=True)
class Link:
    """One end of a cable between two machines, the only network there is. The end that listens is switched on first."""

    path: Path
    """Of a socket."""
    address: str
    """Its own, with the length of the prefix."""
    listens: bool = False

    @property
    def words(self) -> list[str]:
        server = "on" if self.listens else "off"
        return ["-netdev", f"stream,id=link,addr.type=unix,addr.path={self.path},server={server}", "-device", "virtio-net-pci,netdev=link"]


class Console:
    """The serial line, and whoever sits at it. All is read as it comes: a line that nobody reads holds up the whole machine."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.connect(str(path))
        self._seen = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        with suppress(OSError):  # the machine may have hung up first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        while received := self._socket.recv(65536):
            with self._more:
                self._seen += received.decode(errors="replace")
                self._more.notify_all()

    def until(self, text: str) -> str:
        """Wait until this is shown; return what was, since the last such text."""
        with self._more:
            assert self._more.wait_for(lambda: text in self._seen, PATIENCE), f"{text!r} is not in {self._seen!r}"
            before, found, self._seen = self._seen.partition(text)
        return before + found

    def type(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\r")

    def log_in(self) -> str:
        """As root. Return what is shown before the first prompt."""
        self.until("login: ")
        self.type("root")
        self.until("Password: ")
        self.type("root")
        return self.until("# ")


class Guest:
    """One machine and its own disk. Journal and console are kept in `kept`, as long as it runs and afterwards."""

    def __init__(self, made: Path, room: Path, kept: Path, link: Link | None = None) -> None:
        """`made`: a directory with vmlinuz, initrd.img and root.img. `room`: an empty one for what is this machine's alone."""
        self._made, self._room, self._kept, self._link = made, room, kept, link
        subprocess.run(["cp", "--sparse=always", made / "root.img", room / "root.img"], check=True)
        self._boots = 0
        self.is_on = False
        self._disks: dict[str, Path] = {}

    # --- power -----------------------------------------------------------------------------------------------------

    def boot(self, clock: str = "") -> None:
        """Switch it on, and wait until all that starts at boot has. `clock`: the time of day, UTC, 2030-01-31T12:00:00; systemd takes none
        from before it was built."""
        self.switch_on(clock)
        self.until_booted()

    def switch_on(self, clock: str = "") -> None:
        """Switch it on, and do not wait."""
        self._boots += 1
        name = self._kept / f"boot{self._boots}"
        ports = {port: self._room / port for port in ("qmp", "agent", "console")}
        for path in ports.values():
            path.unlink(missing_ok=True)
        drives = [word for disk, image in self._disks.items() for word in (*_drive(disk, image), *_device(disk))]
        command: list[str | Path] = [
            "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", MEMORY,
            "-nodefaults", "-no-user-config", "-display", "none", "-rtc", f"base={clock or 'utc'}",
            "-kernel", self._made / "vmlinuz", "-initrd", self._made / "initrd.img", "-append", "root=LABEL=vm-root rw console=ttyS0 quiet",
            "-drive", f"file={self._room / 'root.img'},format=raw,if=virtio,cache=unsafe",
            "-chardev", f"socket,id=console,path={ports['console']},server=on,wait=off,logfile={name}.console",
            "-serial", "chardev:console",
            "-device", "virtio-serial",
            "-chardev", f"socket,id=agent,path={ports['agent']},server=on,wait=off",
            "-device", "virtserialport,id=agent,chardev=agent,name=org.qemu.guest_agent.0",
            "-chardev", f"file,id=journal,path={name}.journal", "-device", "virtserialport,chardev=journal,name=org.offsited.journal",
            "-qmp", f"unix:{ports['qmp']},server=on,wait=off", *drives, *(self._link.words if self._link else ()),
        ]  # fmt: skip
        with Path(f"{name}.qemu").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while not all(path.exists() for path in ports.values()):
            assert self._process.poll() is None, Path(f"{name}.qemu").read_text()
            assert time.monotonic() < end, "qemu does not start"
            time.sleep(0.05)
        self._qmp = Peer(ports["qmp"])
        self._qmp.call("qmp_capabilities", patience=PATIENCE)
        self._agent = Peer(ports["agent"])
        self.console = Console(ports["console"])
        self.is_on = True

    def until_booted(self) -> None:
        """Wait for the agent, and then until all that starts at boot has started, or failed."""
        self._qmp.event("VSERPORT_CHANGE", patience=PATIENCE, id="agent", open=True)
        state = self.run("systemctl", "is-system-running", "--wait").stdout.strip()
        assert state in {"running", "degraded"}, state
        if self._link:
            self.must("sh", "-c", 'for net in /sys/class/net/e*; do ip link set "${net##*/}" name link up; done')
            self.must("ip", "address", "add", self._link.address, "dev", "link")

    def failed_units(self) -> list[str]:
        """What has failed since the boot."""
        listed = self.must("systemctl", "list-units", "--failed", "--plain", "--no-legend").splitlines()
        return [line.split()[0] for line in listed]

    def restart(self) -> None:
        """Reboot it, as a person does, and wait for the end of the boot."""
        self._begin("systemctl", "--no-block", "reboot")
        self._qmp.event("RESET", patience=PATIENCE)
        self.until_booted()

    def shut_down(self) -> None:
        """Power it off in order."""
        self._begin("systemctl", "--no-block", "poweroff")
        self._process.wait(PATIENCE)
        self._hang_up()

    def switch_off(self) -> None:
        """As a power cut does, if it runs at all."""
        if self.is_on:
            self._process.kill()
            self._process.wait()
            self._hang_up()

    def _hang_up(self) -> None:
        self.is_on = False
        for peer in (self._qmp, self._agent, self.console):
            peer.close()

    # --- commands --------------------------------------------------------------------------------------------------

    def run(self, *command: str, stdin: str = "") -> Ended:
        """Run a command to its end, as root, and return how it ended."""
        pid = self._begin(*command, stdin=stdin)
        end = time.monotonic() + PATIENCE
        while not (told := self._agent.call("guest-exec-status", patience=PATIENCE, pid=pid))["exited"]:
            assert time.monotonic() < end, f"{command} does not end"
            time.sleep(0.25)  # the agent tells of nothing by itself
        return Ended(told.get("exitcode", -1), _text(told.get("out-data", "")), _text(told.get("err-data", "")))

    def _begin(self, *command: str, stdin: str = "") -> int:
        """Start a command; the agent may be gone before it has ended."""
        typed = {"input-data": base64.b64encode(stdin.encode()).decode()} if stdin else {}
        environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
        asked = {"path": command[0], "arg": list(command[1:]), "env": environment, "capture-output": True, **typed}
        return int(self._agent.call("guest-exec", patience=PATIENCE, **asked)["pid"])

    def must(self, *command: str, stdin: str = "") -> str:
        """Run a command that has to succeed, and return what it printed."""
        ended = self.run(*command, stdin=stdin)
        assert ended.status == 0, f"{command}: {ended.status}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def until_logged(self, pattern: str, *match: str) -> str:
        """Wait until what is chosen of this boot's journal has a line like this, as grep(1) sees it; return the line."""
        chosen = " ".join(match)
        follow = f"journalctl --boot --follow --no-tail --output=cat --quiet {chosen} 2>/dev/null"
        script = f'exec 3< <(exec {follow}); grep --max-count=1 -e "$0" <&3; kill $!'
        return self.must("timeout", f"{PATIENCE:.0f}", "bash", "-c", script, pattern).strip()

    def until(self, condition: str) -> None:
        """Wait until a shell command succeeds: for what nobody tells of."""
        self.must("timeout", f"{PATIENCE:.0f}", "sh", "-c", f"until {condition}; do sleep 0.3; done")

    def write(self, path: str, text: str) -> None:
        """Write a file, with its directories."""
        self.must("install", "-D", "-m", "0644", "/dev/stdin", path, stdin=text)

    # --- disks -----------------------------------------------------------------------------------------------------

    def plug(self, disk: str, size: int = DISK, *, image: Path | None = None, broken: int | None = None) -> str:
        """Plug in a disk of this serial number, an empty one if there was none; return its device once udev has seen it.

        `image`: what it holds, if it comes from another machine. `broken`: where nothing can be written, a number of a byte.
        """
        image = self._disks.setdefault(disk, image or self._room / f"{disk}.img")
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(size)
        self._qmp.call("blockdev-add", patience=PATIENCE, **_node(disk, image, broken))
        self._qmp.call("device_add", patience=PATIENCE, driver="virtio-blk-pci", id=disk, drive=disk, serial=disk)
        link = f"/dev/disk/by-id/virtio-{disk}"
        self.must("udevadm", "wait", "--settle", f"--timeout={PATIENCE:.0f}", link)
        return self.must("realpath", link).strip()

    def pull(self, *disks: str) -> list[Path]:
        """As `unplug`, by the one cable that all of them hang on: in the same moment none of them answers any more."""
        self._qmp.call("stop", patience=PATIENCE)
        for disk in disks:
            self._qmp.call("blockdev-add", patience=PATIENCE, **_dead(disk, self._disks[disk]))
            self._qmp.call("blockdev-reopen", patience=PATIENCE, options=[{"driver": "raw", "node-name": disk, "file": f"{disk}-dead"}])
        self._qmp.call("cont", patience=PATIENCE)
        images = self.unplug(*disks)
        for disk in disks:
            self._qmp.call("blockdev-del", patience=PATIENCE, node_name=f"{disk}-dead")
        return images

    def unplug(self, *disks: str) -> list[Path]:
        """Pull disks out, one right after the other; return their images once udev has seen it."""
        for disk in disks:
            self._qmp.call("device_del", patience=PATIENCE, id=disk)
        left = set(disks)
        while left:
            left.discard(self._qmp.event("DEVICE_DELETED", patience=PATIENCE).get("device", ""))
        for disk in disks:
            self._qmp.call("blockdev-del", patience=PATIENCE, node_name=disk)
        links = [f"/dev/disk/by-id/virtio-{disk}" for disk in disks]
        self.must("udevadm", "wait", "--removed", "--settle", f"--timeout={PATIENCE:.0f}", *links)
        return [self._disks.pop(disk) for disk in disks]


def _node(disk: str, image: Path, broken: int | None = None) -> dict[str, Any]:
    file: dict[str, Any] = {"driver": "file", "filename": str(image)}
    if broken is not None:
        fault = {"event": "write_aio", "errno": 5, "sector": broken // 512}
        file = {"driver": "blkdebug", "image": file, "inject-error": [fault]}
    return {"driver": "raw", "node_name": disk, "file": file, "cache": {"no-flush": True}}


def _dead(disk: str, image: Path) -> dict[str, Any]:
    """What is of a disk's size and fails whatever it is asked."""
    fault = {"event": "none", "errno": 5}
    return {
        "driver": "blkdebug",
        "node_name": f"{disk}-dead",
        "image": {"driver": "null-co", "size": image.stat().st_size},
        "inject-error": [fault],
    }


def _drive(disk: str, image: Path) -> list[str]:
    """The same where it is there from the start."""
    return ["-blockdev", json.dumps({key.replace("_", "-"): value for key, value in _node(disk, image).items()})]


def _device(disk: str) -> list[str]:
    return ["-device", f"virtio-blk-pci,id={disk},drive={disk},serial={disk}"]


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="surrogateescape")


@contextmanager
def running(made: Path, room: Path, kept: Path, link: Link | None = None) -> Iterator[Guest]:
    """A machine that is off. Afterwards it is ended, in order if it can be."""
    kept.mkdir(parents=True)
    guest = Guest(made, room, kept, link)
    try:
        yield guest
        if guest.is_on:
            guest.shut_down()
    finally:
        guest.switch_off()
        shutil.rmtree(room, ignore_errors=True)
