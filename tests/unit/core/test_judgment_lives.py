# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told, and when: random lives of a vault against a model that knows the real time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offsited.core.event import Event
from offsited.core.judgment import DAY, event_of, judge
from offsited.core.notice import Facts, Mark, Moment, Notice, Ping, Remembered, TargetFacts
from offsited.core.outcome import Outcome
from offsited.core.record import JobRecord

from .judged import HOUR, LIMIT, START, record

INTERVAL = 3 * HOUR
"""Between two looks of the watch, in this model."""
ENDS = [
    (Outcome.DONE, ""),
    (Outcome.DONE, ""),
    (Outcome.FAILED, "target-absent"),
    (Outcome.FAILED, "target-full"),
    (Outcome.FAILED, "locked"),
    (Outcome.PARTIAL, "entries-unreadable"),
    (Outcome.HELD, ""),
    (Outcome.CANCELED, "canceled"),
]

Act = tuple[str, int]
ACTS = st.one_of(
    st.tuples(st.just("run"), st.integers(0, len(ENDS) - 1)),
    st.tuples(st.just("unseen"), st.integers(0, len(ENDS) - 1)),
    st.tuples(st.just("wait"), st.integers(1, 50)),
    st.tuples(st.just("jump"), st.one_of(st.integers(-100, 100), st.sampled_from([-100_000, 100_000]))),
    st.tuples(st.just("reboot"), st.just(0)),
    st.tuples(st.just("crash"), st.just(0)),
)


@dataclass
class Life:
    """A vault with one target, whose real time nobody but this model knows."""

    real: int = 0
    clock: int = START
    """The time of day is this more than the real time."""
    booted: int = 0
    boots: int = 0
    records: list[JobRecord] = field(default_factory=list)
    remembered: Remembered | None = None
    notices: list[tuple[int, Notice]] = field(default_factory=list)
    done_at: int | None = None
    lost: int = 0
    """How much of the real time since then may be unknown to any machine with such a clock."""
    forward: bool = False
    """Whether the clock was set forward since then."""
    jumps: int = 0

    def moment(self) -> Moment:
        return Moment(self.real + self.clock, str(self.boots), self.real - self.booted)

    def facts(self) -> Facts:
        done = [found for found in self.records if found.outcome is Outcome.DONE]
        return Facts("home", (TargetFacts("disk", LIMIT, done[-1] if done else None),), tuple(self.records))

    def act(self, what: str, value: int) -> None:
        getattr(self, f"_{what}")(value)
        self.check()

    def _run(self, end: int) -> None:
        self._unseen(end)
        self.look()

    def _unseen(self, end: int) -> None:
        """The daemon is killed at once: nobody looks before the watch does."""
        outcome, reason = ENDS[end]
        self.records.append(record(len(self.records) + 1, outcome, reason, self.real + self.clock))
        if outcome is Outcome.DONE:
            self.done_at, self.lost, self.forward = self.real, INTERVAL, False

    def _wait(self, hours: int) -> None:
        until = self.real + hours * HOUR
        while self.real < until:
            self.real = min(self.real + INTERVAL, until)
            self.look()
            self.check()

    def _jump(self, hours: int) -> None:
        self.clock += hours * HOUR
        self.forward = self.forward or hours > 0
        self.jumps += 1

    def _reboot(self, _: int) -> None:
        self.booted, self.boots = self.real, self.boots + 1
        self.lost += INTERVAL

    def _crash(self, _: int) -> None:
        """It judges, and what it would keep is lost."""
        judge(self.remembered, self.facts(), self.moment())

    def look(self) -> None:
        judgment = judge(self.remembered, self.facts(), self.moment())
        self.remembered = judgment.remembered
        self.notices += [(self.real, notice) for notice in judgment.notices]
        assert judgment.ping is None or (judgment.ping is Ping.FAIL) is bool(judgment.remembered.troubles)

    def check(self) -> None:
        """Never green when it is old or the last sync was not done; never red for long without a cause."""
        if self.remembered is None or self.done_at is None or self.remembered.targets["disk"].done != self._last_done():
            return
        age = self.real - self.done_at
        stale = "stale:disk" in self.remembered.troubles
        assert stale or age <= LIMIT + INTERVAL + self.lost, f"green after {age / HOUR} hours"
        assert not stale or self.forward or age > LIMIT - 2 * HOUR, f"red after {age / HOUR} hours"

    def _last_done(self) -> int:
        return max(found.job for found in self.records if found.outcome is Outcome.DONE)

    def expected(self) -> list[tuple[str, str]]:
        """What a single-minded observer of the jobs would have told."""
        told, state = [], None
        for found in self.records:
            event = event_of(found)
            if event is Event.SUCCESS and state:
                told.append(("over", state))
                state = None
            elif event not in {None, Event.SUCCESS} and (mine := f"{event} {found.reason}") != state:
                told.append(("begun", mine))
                state = mine
        return told


def _of_jobs(notices: list[Notice]) -> list[tuple[str, str]]:
    new = [(notice.event is Event.RECOVERED, trouble) for notice in notices if not notice.reminder for trouble in notice.troubles]
    return [("over" if over else "begun", f"{trouble.event} {trouble.reason}") for over, trouble in new if trouble.event is not Event.STALE]


def _of_age(notices: list[Notice]) -> list[bool]:
    """Stale and stale no more, in order."""
    new = [notice for notice in notices if not notice.reminder]
    return [notice.event is not Event.RECOVERED for notice in new for trouble in notice.troubles if trouble.event is Event.STALE]


SEEN: Counter[str] = Counter()
"""So that the random lives are known to have met what they are to meet."""


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTS, min_size=1, max_size=14))
def _live(acts: list[Act]) -> None:
    life = Life()
    life.look()
    for what, value in acts:
        life.act(what, value)
    life.look()
    notices = [notice for _, notice in life.notices]
    assert _of_jobs(notices) == life.expected(), "each state once"
    assert _of_age(notices) == [index % 2 == 0 for index in range(len(_of_age(notices)))]
    assert [notice.serial for notice in notices] == list(range(1, len(notices) + 1))
    _check_reminders(life)
    SEEN["lives"] += 1
    SEEN.update(f"{notice.event}{' reminder' if notice.reminder else ''}" for notice in notices)
    SEEN["jumps"] += life.jumps


def _check_reminders(life: Life) -> None:
    """At least daily while something lasts, and not more often, but for clocks that were set forward."""
    reminders = [when for when, notice in life.notices if notice.reminder]
    allowed = life.real // DAY + life.jumps + 1
    assert len(reminders) <= allowed
    assert life.remembered
    told = max((when for when, notice in life.notices if notice.troubles and notice.event is not Event.RECOVERED), default=0)
    if life.remembered.troubles:
        assert life.real - told <= DAY + INTERVAL * (2 + life.boots)


def test_two_thousand_random_lives() -> None:
    SEEN.clear()
    _live()
    assert SEEN["lives"] >= 2000
    for wanted in ("failed", "held", "locked", "degraded", "stale", "recovered", "stale reminder", "failed reminder", "jumps"):
        assert SEEN[wanted] > 20, f"no life met {wanted}: {SEEN}"


@pytest.mark.parametrize(
    "breakage",
    [
        lambda mark, moment: mark.model_copy(update={"reading": moment.now}),
        lambda mark, moment: mark.model_copy(update={"reading": max(mark.reading, moment.now)}),
    ],
    ids=["trusting the clock", "without the uptime"],
)
def test_the_model_finds_a_clock_that_can_be_fooled(breakage: Callable[[Mark, Moment], Mark], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mark, "at", breakage)
    with pytest.raises(AssertionError, match="green after"):
        _forty_hours_with_a_clock_set_back_in_between()


def _forty_hours_with_a_clock_set_back_in_between() -> None:
    life = Life()
    for what, value in [("run", 0), ("wait", 20), ("jump", -30), ("wait", 30)]:
        life.act(what, value)


def test_a_clock_set_back_in_a_life() -> None:
    _forty_hours_with_a_clock_set_back_in_between()
