# SPDX-License-Identifier: GPL-3.0-or-later
"""What each test has: a machine of its own. What packaging/bed provides is named here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .guest import Guest, running


@pytest.fixture(scope="session")
def made() -> Path:
    """What packaging/bed has made to boot."""
    directory = os.environ.get("OFFSITED_VM", "")
    if not directory:
        pytest.exit("no bed: start these tests by tests/run vm, see packaging/bed", returncode=3)
    return Path(directory)


@pytest.fixture
def guest(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Iterator[Guest]:
    """A machine that is off, with a disk as it was after the installation. Its journal and console are among what the run leaves."""
    with running(made, tmp_path, Path(os.environ["OFFSITED_VM_OUT"]) / request.node.name) as machine:
        yield machine
