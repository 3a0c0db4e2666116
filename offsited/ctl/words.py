# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers, times and names as a person reads them: `core.words`, where mails have them from too."""

from offsited.core.words import PREPOSITIONS, age, ago, clock, duration, moment, number, printable, size, span

__all__ = ["PREPOSITIONS", "age", "ago", "clock", "duration", "moment", "number", "printable", "size", "span"]
