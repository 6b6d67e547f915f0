# SPDX-License-Identifier: MIT
"""The language: SMTP as two sans-IO machines that neither read, nor write, nor know the time."""
