# SPDX-License-Identifier: GPL-3.0-or-later
"""How a job can end: every reason has its advice, and nothing but `done` is green."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.outcome import ADVICE, Outcome, Reason, exit_status, parse_reason
from offsited.errors import Exit


def test_every_reason_has_advice() -> None:
    assert set(ADVICE) == set(Reason)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.NONE])
def test_advice_says_what_happened_and_what_to_do(reason: Reason) -> None:
    advice = ADVICE[reason]
    assert advice.exit_status is not Exit.DONE
    assert advice.sentence
    assert not advice.sentence.endswith(".")
    assert advice.hint
    fields = {field for _, field, _, _ in string.Formatter().parse(advice.hint + advice.sentence) if field is not None}
    assert fields <= {"vault", "target", "job"}


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("outcome", Outcome)
def test_done_alone_exits_0(outcome: Outcome, reason: Reason) -> None:
    assert (exit_status(outcome, reason) == 0) is (outcome is Outcome.DONE)


@pytest.mark.parametrize(
    ("outcome", "reason", "status"),
    [
        (Outcome.DONE, Reason.NONE, 0),
        (Outcome.FAILED, Reason.NONE, 1),
        (Outcome.FAILED, Reason.RSYNC_PARTIAL, 1),
        (Outcome.PARTIAL, Reason.NONE, 1),
        (Outcome.CANCELED, Reason.CANCELED, 1),
        (Outcome.FAILED, Reason.LOCKED, 3),
        (Outcome.FAILED, Reason.WRONG_PASSPHRASE, 3),
        (Outcome.HELD, Reason.NONE, 4),
        (Outcome.FAILED, Reason.TARGET_ABSENT, 5),
        (Outcome.FAILED, Reason.TARGET_UNREACHABLE, 5),
        (Outcome.FAILED, Reason.CONFIG_INVALID, 7),
    ],
)
def test_the_table_of_exit_statuses(outcome: Outcome, reason: Reason, status: int) -> None:
    assert exit_status(outcome, reason) == status


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_read_back(reason: Reason) -> None:
    assert parse_reason(reason.value) is reason


@given(st.text())
def test_a_word_of_a_newer_version_is_no_success(word: str) -> None:
    assert parse_reason(word) is Reason.INTERNAL or word in set(Reason)
