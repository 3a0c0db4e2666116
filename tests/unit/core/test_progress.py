# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress in a unit's StatusText."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core.progress import Phase, Progress, parse_status_text

_NUMBERS = st.integers(min_value=0, max_value=10**19 - 1)


@given(st.builds(Progress, st.sampled_from(Phase), _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS))
def test_what_a_worker_says_the_daemon_reads(progress: Progress) -> None:
    text = progress.status_text()
    assert parse_status_text(text) == progress
    assert len(text) < 4000


def test_the_line() -> None:
    assert Progress(Phase.SENDING, 1, 2, 3, 4).status_text() == "sending: 1 of 2 bytes, 3 of 4 entries"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Started.",
        "sending",
        "sending: 1 of 2 bytes",
        "resting: 1 of 2 bytes, 3 of 4 entries",
        "sending: -1 of 2 bytes, 3 of 4 entries",
        "sending: 1 of 2 bytes, 3 of 4 entries\n",
        " sending: 1 of 2 bytes, 3 of 4 entries",
        f"sending: {10**19} of 2 bytes, 3 of 4 entries",
    ],
)
def test_what_says_nothing_reads_as_none(text: str) -> None:
    assert parse_status_text(text) is None


@given(st.text() | st.from_regex(r"[a-z]+: \d+ of \d+ bytes, \d+ of \d+ entries"))
def test_no_text_crashes_and_every_number_fits_the_bus(text: str) -> None:
    """D-Bus has 64 bits for `t`."""
    found = parse_status_text(text)
    assert found is None or max(found.bytes_done, found.bytes_total, found.entries_done, found.entries_total) < 2**64
