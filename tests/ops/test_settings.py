# SPDX-License-Identifier: MIT
"""`smarthost config check|show`."""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from smarthost.ops import cli

GOOD = 'hostname = "relay.example.org"\nlisten = ["127.0.0.1:0"]\n'
BAD = 'hostnam = "x"\n[limits]\nrecipients = 5\n'


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["config", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "smarthost.toml"


def test_a_good_file_is_told_to_be_good(file: Path) -> None:
    """`config check` says which file it read."""
    file.write_text(GOOD)

    assert run("check", "--config", str(file)) == (0, f"{file}: no errors\n", "")


def test_a_bad_file_is_told_line_by_line(file: Path) -> None:
    """Every error comes with file, line and key, and the exit code is 78."""
    file.write_text(BAD)

    code, out, said = run("check", "--config", str(file))

    assert (code, out) == (78, "")
    assert said.splitlines() == [
        f"{file}: line 1: hostnam: unknown key; did you mean hostname?",
        f"{file}: line 3: limits.recipients: expected 100 to 100000 (RFC 5321 4.5.3.1.8: 100 at least), got 5",
    ]


def test_errors_as_json_have_file_line_and_key(file: Path) -> None:
    """A deployment script can point at the line."""
    file.write_text(BAD)

    code, out, _ = run("check", "--config", str(file), "--json")

    found = [json.loads(line) for line in out.splitlines()]
    assert code == 78
    assert [(each["file"], each["line"], each["key"]) for each in found] == [
        (str(file), 1, "hostnam"),
        (str(file), 3, "limits.recipients"),
    ]


def test_an_error_of_an_option_names_the_option(file: Path) -> None:
    """A wrong option is not looked for in the file."""
    file.write_text(GOOD)

    _, _, said = run("check", "--config", str(file), "--dns", "localhost", "--dns", "x:53")

    assert said.splitlines() == [
        '--dns: element 2: expected IP:PORT such as 127.0.0.1:2525 or [::1]:2525, got host "x"'
    ]


def test_an_open_relay_is_warned_about(file: Path) -> None:
    """`config check` says what it would mean."""
    file.write_text(GOOD + 'relay_from = ["0.0.0.0/0"]\n')

    code, _, said = run("check", "--config", str(file))

    assert code == 0
    assert "open relay" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "[[route]]\ndomains = ['a.example']\nrefuse = 'x'\n[[route]]\ndomains = ['A.example']\nrefuse = 'y'\n",
            "route[2].domains: a.example has a route already",
        ),
        (
            "[[next_hop]]\nhost = 'a.example'\nca_file = '/etc/hosts'\n"
            "[[next_hop]]\nhost = 'b.example'\nca_file = '/etc/passwd'\n",
            "next_hop.ca_file: one ca_file for all next hops",
        ),
        ("[[network]]\nnetworks = ['10.0.0.0/8', '10.0.0.0/8']\n", "network is described twice"),
    ],
)
def test_what_a_start_would_refuse_is_told_before(file: Path, more: str, said: str) -> None:
    """`config check` finds what only the whole of it shows."""
    file.write_text(GOOD + more)

    code, out, told = run("check", "--config", str(file))

    assert (code, out) == (78, "")
    assert said in told


def test_an_expired_certificate_is_warned_about(file: Path, tmp_path: Path) -> None:
    """It is no error: hosts that do not verify go on, and the relay starts."""
    ended_at = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    issued = trustme.CA().issue_cert("mail.example.org", not_after=ended_at)
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    file.write_text(GOOD + f'[tls]\ncertificate_file = "{tmp_path}/cert.pem"\n')

    code, out, told = run("check", "--config", str(file))

    assert (code, out) == (0, f"{file}: no errors\n")
    assert told == f"warning: certificate expired: file {tmp_path}/cert.pem, since 2020-01-02T03:04:05+00:00\n"


def test_a_certificate_that_is_still_good_is_not_warned_about(file: Path, tmp_path: Path) -> None:
    """Silence means that there is nothing to do."""
    trustme.CA().issue_cert("mail.example.org").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    file.write_text(GOOD + f'[tls]\ncertificate_file = "{tmp_path}/cert.pem"\n')

    assert run("check", "--config", str(file)) == (0, f"{file}: no errors\n", "")


def test_show_prints_what_holds_with_options_over_the_file(file: Path) -> None:
    """Defaults, file and options in one, as a file that could be used."""
    file.write_text(GOOD)

    code, out, _ = run(
        "show", "--config", str(file), "--listen", "127.0.0.1:2526", "--allow-private", "--mx-port", "26"
    )

    shown = tomllib.loads(out)
    assert code == 0
    assert out.startswith(f"# read from {file}\n")
    assert (shown["hostname"], shown["listen"]) == ("relay.example.org", ["127.0.0.1:2526"])
    assert shown["mx"] == {"port": 26, "allow_private": True, "families": "both", "tls": "opportunistic"}


def test_show_as_json_is_one_line(file: Path) -> None:
    """A program reads numbers."""
    file.write_text(GOOD)

    _, out, _ = run("show", "--config", str(file), "--json")

    assert len(out.splitlines()) == 1
    assert json.loads(out)["retry"]["first_s"] == 300


def test_every_option_of_serve_reaches_its_key(tmp_path: Path) -> None:
    """What the manual says an option sets, it sets."""
    _, out, said = run(
        "show", "--listen", "127.0.0.1:1", "--listen", "[::1]:2", "--state-dir", str(tmp_path),
        "--hostname", "h.example", "--next-hop", "n.example:26", "--dns", "127.0.0.1:5353",
        "--mx-port", "2526", "--allow-private", "--relay-from", "10.0.0.0/8", "--relay-from", "::1",
    )  # fmt: skip

    shown = tomllib.loads(out)
    assert said == ""
    assert shown["listen"] == ["127.0.0.1:1", "[::1]:2"]
    assert (shown["state_dir"], shown["hostname"]) == (str(tmp_path), "h.example")
    assert (shown["next_hop"]["host"], shown["next_hop"]["port"]) == ("n.example", 26)
    assert shown["dns"]["servers"] == ["127.0.0.1:5353"]
    assert (shown["mx"]["port"], shown["mx"]["allow_private"]) == (2526, True)
    assert shown["relay_from"] == ["10.0.0.0/8", "::1/128"]


def test_options_that_are_not_given_leave_the_file_alone(file: Path) -> None:
    """A switch that is not set does not switch off what the file switches on."""
    file.write_text(GOOD + "[mx]\nallow_private = true\nport = 26\n")

    _, out, _ = run("show", "--config", str(file))

    assert tomllib.loads(out)["mx"] == {"port": 26, "allow_private": True, "families": "both", "tls": "opportunistic"}


def test_a_file_that_cannot_be_used_is_told_with_the_line_that_names_it(file: Path, tmp_path: Path) -> None:
    """What only opening can tell points at the same place as a slip of the pen."""
    (tmp_path / "key.pem").write_text("no key")
    file.write_text(
        'hostname = "relay.example.org"\n\n[[dkim]]\ndomains = ["example.org"]\nselector = "s1"\n'
        f'key_file = "{tmp_path}/key.pem"\n'
    )

    code, _, said = run("check", "--config", str(file))
    _, out, _ = run("check", "--config", str(file), "--json")

    assert code == 78
    assert said.startswith(f"{file}: line 6: dkim[1].key_file: {tmp_path}/key.pem: no private key")
    assert (json.loads(out)["line"], json.loads(out)["key"]) == (6, "dkim[1].key_file")


@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_password_that_everybody_may_read_is_warned_about(file: Path, mode: int, is_told: bool) -> None:
    """As for the users file: it is no error, and it is no secret."""
    password = file.with_name("password")
    password.write_text("secret\n")
    password.chmod(mode)
    file.write_text(GOOD + f'[next_hop]\nhost = "mail.example"\nusername = "me"\npassword_file = "{password}"\n')

    code, out, told = run("check", "--config", str(file))

    assert (code, out) == (0, f"{file}: no errors\n")
    warning = f"warning: password file readable by everybody: file {password}, mode 0o644, cure chmod 600 {password}\n"
    assert told == (warning if is_told else "")


def test_a_password_in_a_file_that_everybody_may_read_is_warned_about(file: Path) -> None:
    """The configuration itself is as secret as what stands in it."""
    file.write_text(GOOD + '[next_hop]\nhost = "mail.example"\nusername = "me"\npassword = "secret"\n')
    file.chmod(0o644)

    _, _, told = run("check", "--config", str(file))

    assert told.startswith(f"warning: password file readable by everybody: file {file}, ")


def test_a_page_without_tokens_is_warned_about(file: Path) -> None:
    """Health and metrics alone may be meant; a login is then not to be had."""
    file.write_text(GOOD + '[http]\nlisten = ["127.0.0.1:0"]\n')

    code, _, told = run("check", "--config", str(file))

    assert code == 0
    assert "nobody can log in to the page" in told
    assert "smarthost tokens add NAME" in told


def test_the_password_file_is_shown_and_reads_back(file: Path) -> None:
    """What `config show` prints can be started with: the password stays where it is."""
    password = file.with_name("password")
    password.write_text("secret\n")
    file.write_text(GOOD + f'[next_hop]\nhost = "mail.example"\nusername = "me"\npassword_file = "{password}"\n')

    code, out, _ = run("show", "--config", str(file))

    assert code == 0
    assert tomllib.loads(out)["next_hop"]["password_file"] == str(password)
    assert "***" not in out
    assert "secret" not in out
