# SPDX-License-Identifier: GPL-3.0-or-later
"""A source's exclude patterns, in .gitignore's syntax and relative to the snapshot, as the walk asks for them."""

import os
from collections.abc import Sequence

from offsited.errors import ConfigInvalid
from offsited.worker.listing import Excludes


def excludes(patterns: Sequence[str]) -> Excludes | None:
    """Given patterns, return what tells whether a path is excluded; None without patterns. Raise ConfigInvalid for one that is none."""
    if not patterns:
        return None
    # Only those who exclude something wait for this import.
    from pathspec import GitIgnoreSpec  # noqa: PLC0415
    from pathspec.patterns.gitwildmatch import GitWildMatchPatternError  # noqa: PLC0415

    try:
        spec = GitIgnoreSpec.from_lines(map(_as_git_reads_it, patterns))
    except GitWildMatchPatternError as error:
        raise ConfigInvalid(f"exclude: {error}") from None

    def excluded(path: bytes, *, is_directory: bool) -> bool:
        return spec.match_file(os.fsdecode(path) + "/" * is_directory)

    return excluded


def _as_git_reads_it(pattern: str) -> str:
    """To git, `x/**` is all that is in x; to pathspec it is x too."""
    return f"{pattern}/*" if pattern.endswith("/**") else pattern
