# SPDX-License-Identifier: GPL-3.0-or-later
"""When nothing moves on a line any more."""

from collections.abc import Callable

import pytest

from offsited.core.line import EVERY, WINDOW, Sample, is_stalled

STEPS = round(WINDOW / EVERY)


def line(received: Callable[[float], float], taken: Callable[[float], float], *, waiting: bool) -> list[Sample]:
    """Samples of a whole window, of what was moved by then."""
    return [Sample(1000 + step * EVERY, int(received(step * EVERY)), int(taken(step * EVERY)), waiting) for step in range(STEPS + 1)]


@pytest.mark.parametrize(
    ("what", "samples", "stalled"),
    [
        ("idle: keep-alives and their answers", line(lambda t: 7.2 * t, lambda t: 7.2 * t, waiting=False), False),
        ("sending all it can", line(lambda t: 100 * t, lambda t: 1e6 * t, waiting=True), False),
        ("sending on a line of 200 bytes a second", line(lambda t: 8 * t, lambda t: 200 * t, waiting=True), False),
        ("receiving at 1 KB a second", line(lambda t: 1000 * t, lambda t: 8 * t, waiting=False), False),
        ("the host flushes a large file and takes nothing", line(lambda t: 8 * t, lambda t: 0, waiting=False), False),
        ("gone", line(lambda t: 0, lambda t: 0, waiting=True), True),
        ("a byte a second goes out", line(lambda t: 8 * t, lambda t: 0, waiting=True), True),
        ("a byte a second comes in", line(lambda t: t, lambda t: 10 * t, waiting=False), True),
        ("nothing answers during the handshake", line(lambda t: 40, lambda t: 1000, waiting=False), True),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_is_a_stall(what: str, samples: list[Sample], stalled: bool) -> None:  # noqa: FBT001 - a table
    del what
    assert is_stalled(samples) is stalled


def test_it_takes_the_whole_window() -> None:
    gone = line(lambda t: 0, lambda t: 0, waiting=True)
    assert [is_stalled(gone[: count + 1]) for count in range(STEPS + 1)] == [False] * STEPS + [True]


@pytest.mark.parametrize("every", [EVERY, EVERY * 1.07, EVERY * 1.5, WINDOW * 2])
def test_a_busy_machine_looks_less_often(every: float) -> None:
    samples = [Sample(1000 + step * every, 0, 0, waiting=True) for step in range(STEPS + 1)]
    assert is_stalled(samples)


def test_what_moved_before_the_window_does_not_count_and_one_free_moment_within_it_does() -> None:
    gone = line(lambda t: 8 * t, lambda t: 0, waiting=True)
    before = Sample(gone[0].at - EVERY, -(10**6), -(10**6), waiting=False)
    assert is_stalled([before, *gone])
    gone[3] = Sample(gone[3].at, gone[3].received, gone[3].taken, waiting=False)
    assert not is_stalled(gone)
