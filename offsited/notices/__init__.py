# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells whoever must know, in units of its own: neither the daemon nor a job waits for it, or is harmed by it.

evidence   what is on record of a vault        judging   what is to be told now; letters into the spool
sending    the spool, with patience            ways      mail, ping, Apprise
"""
