# SPDX-License-Identifier: MIT
"""`make test-twisted`: Twisted's own tests of its managed relay, against ours, and beside it against the original.

`python -m tests.compat.twisted_suite`, from the project's root; `child` runs one side in an interpreter of its own,
`outcomes` judges, `table` shows. Nothing is left behind: the children work in directories that are removed.
"""
