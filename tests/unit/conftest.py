# SPDX-License-Identifier: GPL-3.0-or-later
"""What all unit tests share."""

from hypothesis import settings

# How long an example takes says nothing on a machine that does other work.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
