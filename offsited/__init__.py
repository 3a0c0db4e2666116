# SPDX-License-Identifier: GPL-3.0-or-later
"""offsited: encrypted, POSIX-faithful off-site copies of a home server's snapshots."""

__version__ = "0.1.0"
