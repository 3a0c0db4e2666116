# SPDX-License-Identifier: GPL-3.0-or-later
"""When the bus is gone nothing hangs: what waits fails, what is new fails at once, and whoever watches for the end hears of it."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from offsited.edge.bus import Bus, BusError
from offsited.edge.bus import bus as module

from .conftest import Daemon
from .peer import Peer, probe
from .service import PATH, PATIENCE, PROBE, Second, Service

DISCONNECTED = "org.freedesktop.DBus.Error.Disconnected"


def test_a_pending_call_fails(daemon: Daemon, service: Service, peer: Peer) -> None:
    future = service.start(service.bus.call(peer.name, "/a", "a.b", "C", timeout=PATIENCE * 2))
    peer.call_to_me()
    daemon.kill()
    with pytest.raises(BusError) as raised:
        future.result(PATIENCE)
    assert raised.value.name == DISCONNECTED


@pytest.mark.parametrize(
    "new",
    [
        lambda bus: bus.call("a.b", "/a", "a.b", "C"),
        lambda bus: bus.own_name("a.b"),
        lambda bus: bus.watch(sender="a.b", interface="a.b", handler=print),
    ],
    ids=["call", "own_name", "watch"],
)
def test_a_new_call_fails_at_once(daemon: Daemon, service: Service, new: Callable[[Bus], Coroutine[Any, Any, object]]) -> None:
    daemon.kill()
    service.run(service.bus.wait_closed())
    begin = time.monotonic()
    with pytest.raises(BusError) as raised:
        service.run(new(service.bus))
    assert raised.value.name == DISCONNECTED
    assert time.monotonic() - begin < 1


def test_objects_can_still_come_and_go(daemon: Daemon, service: Service) -> None:
    daemon.kill()
    service.run(service.bus.wait_closed())
    service.do(lambda: service.bus.emit(PATH, PROBE, "Tick", 1, "unheard"))
    service.do(lambda: service.bus.changed(PATH, PROBE, {"Count": 1}))
    service.do(lambda: service.bus.export(f"{PATH}/a", [Second()]))
    service.do(lambda: service.bus.unexport(f"{PATH}/a"))


def test_a_watch_can_still_be_closed(daemon: Daemon, service: Service) -> None:
    watch = service.run(service.bus.watch(sender="a.b", interface="a.b", handler=print))
    daemon.kill()
    service.run(watch.close())


def test_handlers_that_run_can_end(daemon: Daemon, service: Service, peer: Peer) -> None:
    peer.send(probe("Hold"))
    peer.ask(probe("Nothing"))
    daemon.kill()
    service.run(service.bus.wait_closed())
    service.do(service.probe.release.set)
    service.do(lambda: None)
    assert service.probe.held == 0


def test_a_bus_that_hangs_is_given_up(daemon: Daemon, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PULSE", 0.2)
    with Service(daemon.address, xml=None) as other:
        daemon.process.send_signal(signal.SIGSTOP)
        other.run(asyncio.wait_for(other.bus.wait_closed(), PATIENCE))
    daemon.process.send_signal(signal.SIGCONT)
    assert service.run(service.bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId"))


def test_a_pulse_keeps_a_connection(daemon: Daemon, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PULSE", 0.01)
    with Service(daemon.address) as service:
        with pytest.raises(TimeoutError):
            service.run(asyncio.wait_for(service.bus.wait_closed(), 0.3))
        assert peer.ask(probe("Echo", "s", "alive")).body == ["alive"]


def test_a_call_that_nobody_answers_ends_in_time(service: Service, peer: Peer) -> None:
    with pytest.raises(BusError, match="NoReply"):
        service.run(service.bus.call(peer.name, "/a", "a.b", "C", timeout=0.05))


def test_connecting_to_no_bus_fails(daemon: Daemon) -> None:
    daemon.kill()
    with pytest.raises(OSError, match="refused"):
        asyncio.run(Bus.connect(address=daemon.address))
    with pytest.raises(ValueError, match="no Unix socket"):
        asyncio.run(Bus.connect(address="tcp:host=localhost,port=1"))


def test_closing_ends_all_tasks(daemon: Daemon, peer: Peer) -> None:
    async def live() -> set[asyncio.Task[Any]]:
        bus = await Bus.connect(address=daemon.address)
        await bus.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus.Peer", "Ping")
        await bus.close()
        await bus.close()
        await bus.wait_closed()
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(live()) == set()
