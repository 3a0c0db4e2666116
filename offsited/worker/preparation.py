# SPDX-License-Identifier: GPL-3.0-or-later
"""What `target prepare` runs as root, in a unit of its own: `python3 -I -m offsited.worker.preparation look|make`.

look    a Wish on standard input; Facts on standard output. Changes nothing.
make    an Order on standard input; a line on standard output for each step. What fails or is ended is taken back, the last step first.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from systemd import journal

from offsited import names
from offsited.core import preparation
from offsited.core.commit import OwnerMarker, encode
from offsited.core.preparation import Facts, Order, Plan, Step, Wish
from offsited.errors import Exit, Failed
from offsited.store import write_whole
from offsited.worker import mounts, process

_IDENTIFIER: Final = "offsited-worker"
_UNDONE: Final = f"What had been made was taken back; what was wiped stays wiped. The journal says more: journalctl -t {_IDENTIFIER}"
_UDEV_PATIENCE: Final = 120
"""Seconds."""
_PATH: Final = process.ENVIRONMENT["PATH"]


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says, and return the exit status; why it failed is the last line on standard output."""
    os.umask(0o077)
    if os.environ.get("INVOCATION_ID"):  # systemd-run --pipe would give the caller what LVM has to say
        with journal.stream(_IDENTIFIER) as stream:
            os.dup2(stream.fileno(), sys.stderr.fileno())
    try:
        match arguments:
            case ["look"]:
                facts = asyncio.run(look(Wish.model_validate_json(sys.stdin.buffer.read())))
                print(facts.model_dump_json())
            case ["make"]:
                asyncio.run(_make_or_undo(Order.model_validate_json(sys.stdin.buffer.read())))
            case _:
                print(__doc__, file=sys.stderr)
                return Exit.USAGE
    except Failed as error:
        print(json.dumps({"failed": error.message, "hint": error.hint}), flush=True)
        return Exit.FAILED
    return Exit.DONE


async def look(wish: Wish) -> Facts:
    """Return what is on the machine that speaks for or against a wish. Raise Failed if it cannot be found out."""
    missing = {package for program, package in wish.programs.items() if shutil.which(program, path=_PATH) is None}
    devices = {typed: path for typed in (*wish.devices, *wish.wipe) if (path := _block_device(typed))}
    listed = await _output(["lsblk", "--json", "--tree", "--bytes", "--output", ",".join(preparation.COLUMNS)])
    signatures = {path: await _signatures(path) for path in sorted(set(devices.values()))}
    return Facts(lsblk=json.dumps(json.loads(listed)), devices=devices, signatures=signatures, missing=tuple(sorted(missing)))


async def make(order: Order) -> None:
    """Carry out a plan that somebody has confirmed, if the disks are still as they were then. Raise Failed; then nothing of it is left."""
    facts = await look(order.wish)
    if preparation.refusals(order.wish, facts) or Plan.of(order.wish, facts) != order.plan:
        raise Failed("the disks are no longer as they were shown", hint="Nothing was changed: look at them again")
    done: list[Step] = []
    try:
        for number, step in enumerate(order.plan.steps, start=1):
            done.append(step)
            print(json.dumps({"step": number, "of": len(order.plan.steps), "program": step.command[0]}), flush=True)
            await _run(step.command)
        await _show(order)
        await _mark(order)
    except Failed as error:
        await _undo(done)
        raise Failed(error.message, hint=_UNDONE) from error
    except asyncio.CancelledError:
        await _undo(done)
        raise Failed("it was ended", hint=_UNDONE) from None


async def _make_or_undo(order: Order) -> None:
    """`make`; SIGTERM ends it in order, once. Raise Failed."""
    task = asyncio.create_task(make(order))
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)  # a further one does not disturb what takes back
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    await task


async def _undo(done: Sequence[Step]) -> None:
    """What cannot be taken back is in the journal; the next try tells what is on the disks."""
    for step in reversed(done):
        for command in step.undo:
            await process.run(command)
    await process.run(("udevadm", "settle"))


async def _mark(order: Order) -> None:
    """Mount the new file system, where nobody else sees it, and write there whose it is. Raise Failed."""
    point = Path(os.environ["RUNTIME_DIRECTORY"]) / "disk"
    point.mkdir()
    await _run(("mount", "-o", "nosuid,nodev,noexec", "--", order.plan.device, str(point)))
    try:
        directory = point / order.directory
        directory.mkdir(parents=True)
        write_whole(directory / names.OWNER_FILE, encode(OwnerMarker(vault=order.vault_id)))
        mounts.flush(directory)
    except OSError as error:
        raise Failed(f"the new file system cannot be written to: {error.strerror}") from error
    finally:
        await _run(("umount", "--", str(point)))
        point.rmdir()


async def _show(order: Order) -> None:
    """Have udev look at the new file system, and wait until it is found by its UUID. Raise Failed.

    udev does not watch a device while it deals with it: that of a volume that was made a moment ago may be over after mkfs.
    """
    await _run(("udevadm", "trigger", "--settle", "--action=change", order.plan.device))
    await _run(("udevadm", "wait", f"--timeout={_UDEV_PATIENCE}", f"/dev/disk/by-uuid/{order.wish.uuid}"))


async def _signatures(path: str) -> tuple[str, ...]:
    """What wipefs(8) would erase: file systems, partition tables, members of arrays and volume groups."""
    found = json.loads(await _output(["wipefs", "--json", "--no-act", "--", path]) or '{"signatures": []}')["signatures"]
    return tuple(dict.fromkeys(" ".join(word for word in (entry["type"], entry.get("label")) if word) for entry in found))


async def _run(command: Sequence[str]) -> None:
    ended = await _started(command)
    if ended.status:
        said = ended.complaints.strip().splitlines() or ["it did not say why"]
        raise Failed(f"{command[0]} ended with status {ended.status}: {said[-1]}")


async def _output(command: Sequence[str]) -> str:
    lines: list[bytes] = []
    ended = await _started(command, lines)
    if ended.status:
        raise Failed(f"{command[0]} ended with status {ended.status}: {ended.complaints.strip()}")
    return os.fsdecode(b"\n".join(lines))


async def _started(command: Sequence[str], lines: list[bytes] | None = None) -> process.Ended:
    """Run a program to its end. What it prints goes to `lines`, else to the journal: LVM complains on standard output too."""
    try:
        return await process.run(command, on_line=process.relay if lines is None else lines.append)
    except OSError as error:
        raise Failed(f"{command[0]} cannot be run: {error.strerror}") from error


def _block_device(typed: str) -> str:
    """The real path of a block device, "" if it is none."""
    path = Path(typed)
    return str(path.resolve()) if path.is_block_device() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
