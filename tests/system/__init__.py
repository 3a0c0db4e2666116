# SPDX-License-Identifier: GPL-3.0-or-later
"""The installed package on a booted machine: real systemd, D-Bus, polkit, udev, gocryptfs, rsync, sshd. Started by tests/run.

machine   running commands and units          vaults    vaults made as a user makes them
daemon    the daemon as seen on the bus       disks     disks that can be attached and unplugged
trees     awkward trees, and comparing them   remote    the second machine
"""
