# SPDX-License-Identifier: MIT
"""How the systems under test are set up: their command lines, configuration and ready line."""

import tomllib
from pathlib import Path

from bench.certificate import Certificate
from bench.modes import MODES
from bench.postfix import MAIN_CF, MASTER_CF, TLS_CF, TLS_MASTER_CF
from bench.smarthost import find_ready_port, serve_command, write_config


def test_ready_line_gives_the_port() -> None:
    """The first bound address is where the load goes."""
    lines = [
        b'{"at":"x","level":"info","what":"starting, soon \\"ready\\""}',
        b'not "ready" json',
        b'{"at":"x","level":"info","what":"ready","listen":[["127.0.0.1",40123],["::1",40124]]}',
    ]

    assert find_ready_port(lines) == 40123


def test_without_a_ready_line_there_is_no_port() -> None:
    """A half-written line is none either: the next look finds it whole."""
    assert find_ready_port([]) is None
    assert find_ready_port([b'{"what":"ready","listen":[["127.0.0.1",40']) is None


def test_smarthost_is_told_state_and_next_hop() -> None:
    """It listens on a port of its own choice and sends everything to the sink."""
    command = serve_command(Path("/x/smarthost"), Path("/y/state"), 2525, ("--config", "z"))

    assert command[:2] == ["/x/smarthost", "serve"]
    assert command[command.index("--state-dir") + 1] == "/y/state"
    assert command[command.index("--next-hop") + 1] == "127.0.0.1:2525"
    assert command[-2:] == ["--config", "z"]


def test_postfix_stays_in_its_directory() -> None:
    """The scratch instance touches neither the machine's Postfix nor any address but loopback."""
    main = MAIN_CF.format(home="/var/tmp/x/postfix", sink_port=2525)
    settings = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in main.splitlines())}

    paths = {name: value for name, value in settings.items() if name.endswith(("_directory", "_file", "_prefixes"))}
    assert len(paths) == 4
    assert all(path.startswith("/var/tmp/x/postfix") for path in paths.values())
    assert settings["inet_interfaces"] == "127.0.0.1"
    assert settings["relayhost"] == "[127.0.0.1]:2525"
    assert MASTER_CF.format(port=2526).startswith("127.0.0.1:2526 inet ")


def test_postfix_keeps_its_durability() -> None:
    """Nothing that would make Postfix's queue less safe, and nothing that would slow it, is set."""
    names = {line.partition(" ")[0] for line in MAIN_CF.splitlines()}

    assert not {name for name in names if "fsync" in name or "delay" in name} - {"in_flow_delay"}
    assert not names & {"content_filter", "smtpd_milters", "header_checks", "smtp_tls_security_level"}


def test_both_relays_show_the_same_certificate(tmp_path: Path) -> None:
    """Neither demands TLS, neither verifies, and both use what the sink offers."""
    certificate = Certificate(Path("/x/certificate.pem"), Path("/x/key.pem"))

    config = write_config(tmp_path, MODES["tls"], certificate, "").read_text()
    main = TLS_CF.format(certificate=certificate.certificate, key=certificate.key)

    for text in (config, main):
        assert "/x/certificate.pem" in text
        assert "/x/key.pem" in text
    assert "[auth]" not in config
    assert "smtpd_tls_security_level = may" in main
    assert "smtp_tls_security_level = may" in main
    assert {line.split()[0] for line in TLS_MASTER_CF.splitlines()} == {"tlsmgr", "tlsproxy"}


def test_submission_has_its_user(tmp_path: Path) -> None:
    """The hash goes into a file that nobody else can read; the configuration is one that smarthost takes."""
    config = write_config(tmp_path, MODES["auth"], Certificate(Path("/x/c"), Path("/x/k")), "$argon2id$x")

    users = tmp_path / "users.toml"
    assert tomllib.loads(users.read_text())["bench"]["password"] == "$argon2id$x"
    assert users.stat().st_mode & 0o077 == 0
    told = tomllib.loads(config.read_text())
    assert told["listener"][0]["mode"] == "submission"
    assert told["auth"]["users_file"] == str(users)


def test_configuration_replaces_the_listen_option() -> None:
    """Both would be two listeners; the next hop is still told on the command line."""
    command = serve_command(Path("/x/smarthost"), Path("/y/state"), 2525, (), Path("/y/smarthost.toml"))

    assert "--listen" not in command
    assert command[command.index("--config") + 1] == "/y/smarthost.toml"
    assert command[command.index("--next-hop") + 1] == "127.0.0.1:2525"
