# SPDX-License-Identifier: GPL-3.0-or-later
"""The installed package on a virtual machine with a kernel of its own: reboots, RAID, LVM, disks that come and go. Started by tests/run vm.

guest     a machine: power, commands, its console      peer   how qemu and the guest's agent are spoken to
homes     a vault on it, made as a user makes it
"""
