# SPDX-License-Identifier: GPL-3.0-or-later
"""offsited, the daemon: puts engine and edge together, and lives by systemd's rules. sd_notify(3), daemon(7)."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from systemd import daemon as sd

from offsited import names
from offsited.edge import journal, keys, motd
from offsited.edge.api import Api
from offsited.edge.bus import Bus, BusError
from offsited.edge.logind import Logind
from offsited.edge.polkit import Polkit
from offsited.edge.systemd1 import Systemd
from offsited.edge.udev import Udev
from offsited.engine import Engine
from offsited.errors import Exit
from offsited.store import Store

_log = logging.getLogger(__name__)

_XML_IN_SOURCE: Final = Path(__file__).resolve().parents[1] / "dbus" / names.INTERFACE_XML.name


def main() -> int:
    """Run until a signal or the loss of the bus; systemd starts us again after the latter."""
    journal.configure()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    try:
        return asyncio.run(_run())
    except (BusError, OSError, ValueError) as error:
        _log.critical("offsited cannot run: %s", error)
        return Exit.FAILED


async def _run() -> int:
    bus = await Bus.connect(_interface_xml())
    try:
        systemd = Systemd(bus)
        await systemd.connect()
        api = Api(bus, Polkit(bus))
        udev = Udev()
        engine = Engine(Store(), systemd, keys.KeyStore.from_systemd(), udev, api, sleep=Logind(bus), show_locked=motd.show)
        api.serve(engine)
        udev.start(engine.disks_changed)
        await engine.begin()
        await bus.own_name(names.BUS_NAME)
        return await _serve(bus, engine)
    finally:
        await bus.close()


async def _serve(bus: Bus, engine: Engine) -> int:
    """Serve until told to stop (0), or until the bus is lost (1)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(engine))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    async with _alive():
        sd.notify("READY=1")
        ended = {loop.create_task(stop.wait()), loop.create_task(bus.wait_closed())}
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.cancel()
        sd.notify("STOPPING=1")
        await engine.jobs.abandon()
    return Exit.DONE if stop.is_set() else Exit.FAILED


async def _reload(engine: Engine) -> None:
    """systemd.service(5), Type=notify-reload."""
    sd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    try:
        await engine.reload()
    except Exception:
        _log.exception("the configuration could not be read again; what was read before stays")
    finally:
        sd.notify("READY=1")


@contextlib.asynccontextmanager
async def _alive() -> AsyncIterator[None]:
    """Within: systemd's watchdog is fed as long as the event loop turns."""
    task = asyncio.create_task(_feed_watchdog(), name="watchdog")
    try:
        yield
    finally:
        task.cancel()


async def _feed_watchdog() -> None:
    interval = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
    while interval:
        sd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _interface_xml() -> Path:
    """As installed, or beside us in a source tree."""
    return names.INTERFACE_XML if names.INTERFACE_XML.exists() else _XML_IN_SOURCE


if __name__ == "__main__":
    sys.exit(main())
