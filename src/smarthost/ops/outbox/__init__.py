# SPDX-License-Identifier: MIT
"""Outboxes: what carries records out of the store to webhooks, a file and a syslog, in order and at least once."""
