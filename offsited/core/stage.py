# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages in the life of a seed (core.seeding)."""

from enum import StrEnum


class Stage(StrEnum):
    """Where the life of a seed stands; of the seed and of its heir alike."""

    NONE = ""
    """The target has no part in one."""
    SEEDING = "seeding"
    """The disk is at home and is being filled; timed syncs to the heir go there."""
    SEALED = "sealed"
    """The disk is complete, verified and unmounted: in transit."""
    ADOPTED = "adopted"
    """What arrived was found to be the seed; the next sync to the heir goes on from there."""
    LIVE = "live"
    """The heir has been synced since."""
