# SPDX-License-Identifier: MIT
"""`smarthost users hash`."""

import pytest
from click.testing import CliRunner

from smarthost.backends.users import verify
from smarthost.ops import exits
from smarthost.ops.cli import cli


@pytest.mark.parametrize("given", ["", "\n", "\r\n"])
def test_no_password_gets_no_hash(given: str) -> None:
    """A pipe whose beginning failed must not make a user whom everybody can be."""
    ended = CliRunner().invoke(cli, ["users", "hash"], input=given)

    assert (ended.exit_code, ended.stdout) == (exits.NO_INPUT, "")
    assert "no password on standard input" in ended.stderr


@pytest.mark.slow
def test_a_line_of_standard_input_gets_the_hash_of_it() -> None:
    """The line end is not part of the password."""
    ended = CliRunner().invoke(cli, ["users", "hash"], input="correct horse\n")

    assert ended.exit_code == exits.OK
    assert verify(ended.stdout.strip().encode(), b"correct horse")
