# SPDX-License-Identifier: MIT
"""The store on SQLite: one child process owns the database."""
