# SPDX-License-Identifier: MIT
"""Files that a service manager passes: $CREDENTIALS_DIRECTORY in the configuration."""

from pathlib import Path

import pytest

from smarthost.config import parse_config
from smarthost.mail.errors import ConfigError


def hop(file: str) -> str:
    return f'[next_hop]\nhost = "mail.example"\nusername = "me"\npassword_file = "{file}"\n'


@pytest.mark.parametrize("variable", ["$CREDENTIALS_DIRECTORY", "${CREDENTIALS_DIRECTORY}"])
def test_a_password_comes_from_a_credential(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoadCredential=upstream:FILE keeps the file readable by root alone; the service reads what it was passed."""
    (tmp_path / "upstream").write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    config = parse_config(hop(f"{variable}/upstream"))

    credentials = config.next_hops[0].credentials
    assert credentials is not None
    assert credentials.password == "secret"


def test_outside_of_the_service_the_error_says_what_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever checks the file in a shell learns which setting of the unit is meant."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    with pytest.raises(ConfigError, match=r"line 4.*LoadCredential=upstream:FILE"):
        parse_config(hop("$CREDENTIALS_DIRECTORY/upstream"))


@pytest.mark.parametrize("file", ["$HOME/password", "$CREDENTIALS_DIRECTORY", "$CREDENTIALS_DIRECTORYX/a", "$"])
def test_no_other_variable_is_read(file: str) -> None:
    """A path means the same whoever starts the daemon."""
    with pytest.raises(ConfigError, match="expected a path, or"):
        parse_config(hop(file))
