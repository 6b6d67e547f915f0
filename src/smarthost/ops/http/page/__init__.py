# SPDX-License-Identifier: MIT
"""The page: what a person sees of the relay in a browser. Drawn by the server; without script it works the same.

What strangers wrote (replies, addresses) passes `words.shown` and Jinja's escaping, and nothing else reaches the page.
"""
