# SPDX-License-Identifier: GPL-3.0-or-later
"""unlock --enroll: the setting in the vault file."""

from offsited.ctl.enroll import with_credential


def test_a_setting_is_added_before_the_first_table() -> None:
    text = '# a vault\nreconcile = "7d"\n\n[source]\nkind = "path"\n'
    assert with_credential(text, "x") == '# a vault\nreconcile = "7d"\n\ncredential = "x"\n\n[source]\nkind = "path"\n'
