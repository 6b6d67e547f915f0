# SPDX-License-Identifier: MIT
"""`smarthost doctor`: is this machine fit to relay mail? A module for each group of checks, run side by side.

A check looks at the world through `world.World` and says what it found to `findings.Findings`; `examination` runs
them, `command` shows them. Nothing is changed, no mail is sent, and no password leaves unless --login asks for it.
"""
