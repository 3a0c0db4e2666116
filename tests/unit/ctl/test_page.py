# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of `status`: what is old is red, what is watched over and good is green, and what waits for a person is said."""

from dataclasses import replace
from datetime import UTC

import click
import pytest

from offsited.core.event import UNSENT
from offsited.ctl.objects import Held, Target, Vault
from offsited.ctl.page import Situation, page

NOON = 1_795_608_000_000_000
"""2026-11-25 12:00 UTC."""
HOUR = 3_600_000_000
FRESH = Target(
    "disk",
    kind="disk",
    default=True,
    state="present",
    commit_job=7,
    snapshot_dated=NOON - 12 * HOUR,
    confirmed=NOON - 3 * HOUR,
    last_outcome="done",
    stale_after=36 * HOUR,
    free_bytes=300 << 30,
    size_bytes=1 << 40,
)


def shown(target: Target = FRESH, **of_vault: object) -> str:
    vault = replace(Vault("home", targets=(target,)), **of_vault)  # type: ignore[arg-type]
    return "\n".join(page([Situation(vault, None, None)], [], NOON, UTC))


def plain(target: Target = FRESH, **of_vault: object) -> str:
    return click.unstyle(shown(target, **of_vault))


HELD = "snapshot of 2026-11-25 00:00 (12 h old), confirmed 2026-11-25 09:00 (3 h ago)"


def test_both_ages_and_the_room_there() -> None:
    assert f"disk  disk, present, default: {HELD}, 300.0 GiB of 1.0 TiB free\n" in plain()
    assert "free" not in plain(replace(FRESH, size_bytes=0))


@pytest.mark.parametrize(
    ("target", "colour", "text"),
    [
        (FRESH, "green", HELD),
        (replace(FRESH, stale=True), "red", f"STALE: {HELD}"),
        (replace(FRESH, stale_after=0), None, HELD),
        (replace(FRESH, last_outcome="failed", last_reason="target-full"), None, HELD),
        (replace(FRESH, commit_job=0), None, "holds no snapshot yet"),
        (replace(FRESH, commit_job=0, stale=True), "red", "STALE: holds no snapshot yet"),
    ],
)
def test_red_is_old_and_green_is_good_and_watched_over(target: Target, colour: str | None, text: str) -> None:
    assert text in plain(target)
    coloured = click.style(text, fg=colour, bold=True if colour == "red" else None) if colour else text
    assert coloured in shown(target)
    for other in {"red", "green"} - {colour}:
        assert click.style(text, fg=other) not in shown(target)


def test_an_array_that_lacks_a_disk_is_something_to_do() -> None:
    text = plain(replace(FRESH, degraded=True))
    assert "degraded: an array that the target lies on lacks a disk" in text
    assert "disk: See which: cat /proc/mdstat" in text
    assert "degraded" not in plain()


@pytest.mark.parametrize("reason", UNSENT)
def test_notices_that_could_not_be_sent_are_something_to_do(reason: str) -> None:
    sentence, hint = UNSENT[reason]
    assert f"to do     2 notices could not be sent: {sentence}. {hint}, then try: sudo offsitectl notify-test" in plain(
        unsent=2, unsent_reason=reason
    )


def test_a_reason_of_tomorrow_is_shown_as_it_is() -> None:
    assert "1 notice could not be sent: pigeon-lost. sudo offsitectl notify-test" in plain(unsent=1, unsent_reason="pigeon-lost")
    assert "notice" not in plain()


def test_what_is_held_is_shown_with_its_id() -> None:
    held = replace(FRESH, last_outcome="held", last_reason="limit-exceeded", held=Held("0123456789ab", 31, 2 << 20, 0, 0))
    text = plain(held)
    assert "held      31 deletions (2.0 MiB), as plan 0123456789ab" in text
    assert "offsitectl approve home --target disk" in text
    assert "plan" not in plain()


def _lives(stage: str, **more: object) -> str:
    """The page of a seed and its heir."""
    seed = replace(FRESH, name="seed", stage=stage, sealed=NOON - 72 * HOUR if stage == "sealed" else 0, **more)  # type: ignore[arg-type]
    heir = Target("vps", kind="ssh", state="unknown", stage=stage, seed="seed", last_outcome="in-transit", last_reason="seed-in-transit")
    vault = Vault("home", targets=(seed, heir))
    return click.unstyle("\n".join(page([Situation(vault, None, None)], [], NOON, UTC)))


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        (
            "seeding",
            ("being filled for vps", "waits for seed, which is being filled", "vps: before seed travels: offsitectl target seal home seed"),
        ),
        (
            "sealed",
            (
                "sealed 2026-11-22 12:00 (3 d ago): in transit to vps",
                "waits for seed, which is in transit",
                "vps: when seed is in place there: offsitectl target adopt home vps --from seed",
            ),
        ),
        ("adopted", ("adopted at vps", "adopted from seed: the next sync sends what has changed since")),
        ("of a newer daemon", ()),
    ],
)
def test_where_a_seed_stands_and_what_comes_next(stage: str, told: tuple[str, ...]) -> None:
    shown = _lives(stage)
    assert [line for line in told if line not in shown] == []
    assert ("target seal" in shown, "target adopt" in shown) == (stage == "seeding", stage == "sealed")


def test_a_seed_that_holds_nothing_yet_is_not_to_be_sealed() -> None:
    assert "target seal" not in _lives("seeding", commit_job=0)
