# SPDX-License-Identifier: GPL-3.0-or-later
"""A job's record as JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from offsited.core.outcome import Outcome, Reason
from offsited.core.record import Counts, JobRecord, Kind, Options

ASKED = JobRecord(job=1, kind=Kind.SYNC, vault="home", target="seed", unit="offsited-job-home.service", requested=5)


def test_a_record_that_was_asked_for_has_no_end() -> None:
    assert (ASKED.outcome, ASKED.started, ASKED.ended, ASKED.reason) == (None, 0, 0, "")


@given(
    st.builds(
        JobRecord,
        job=st.integers(min_value=1),
        kind=st.sampled_from(Kind),
        outcome=st.none() | st.sampled_from(Outcome),
        reason=st.sampled_from(Reason).map(str),
        options=st.builds(Options),
        counts=st.builds(Counts),
        format=st.integers(),
    )
)
def test_what_is_written_is_read(record: JobRecord) -> None:
    assert JobRecord.model_validate_json(record.model_dump_json()) == record


def test_what_a_newer_version_adds_is_passed_over() -> None:
    text = ASKED.model_dump_json().replace('"job":1', '"job":1,"more":{"x":1}')
    assert JobRecord.model_validate_json(text) == ASKED


@pytest.mark.parametrize("text", ["", "{}", "[]", ASKED.model_dump_json()[:-1], ASKED.model_dump_json().replace('"job":1', '"job":0')])
def test_what_is_damaged_is_no_record(text: str) -> None:
    with pytest.raises(ValidationError):
        JobRecord.model_validate_json(text)


def test_a_record_never_changes_after_birth() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ASKED.outcome = Outcome.DONE  # type: ignore[misc]
