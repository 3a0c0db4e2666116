# SPDX-License-Identifier: GPL-3.0-or-later
"""How the survey is run."""

import subprocess
from pathlib import Path

from offsited.worker import survey


def test_it_runs_nothing_that_lies_in_the_current_directory(tmp_path: Path) -> None:
    """It reads as root, in a directory that need not be ours."""
    (tmp_path / "offsited/worker").mkdir(parents=True)
    (tmp_path / "offsited/__init__.py").touch()
    (tmp_path / "offsited/worker/__init__.py").touch()
    for file in ("offsited/worker/survey.py", "json.py"):
        (tmp_path / file).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    subprocess.run(survey.COMMAND, cwd=tmp_path, env=environment, input=b"", capture_output=True, check=False)
    assert not (tmp_path / "ran").exists()
