# SPDX-License-Identifier: MIT
"""The units: what systemd itself says of them, what they must agree upon with the daemon, and that it can work so."""

import shutil
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.certificates import Authority
from tests.interop.programs import program, require
from tests.live.sink import Sink
from tests.ops.service_manager import SERVE, managed
from tests.packaging import confine

from smarthost.activation import _MODES
from smarthost.config.surroundings import default_state_dir
from smarthost.ops import daemon, exits
from smarthost.ops.readiness import EXTENSION_S

UNITS = Path(__file__).parents[2] / "packaging/systemd"
SERVICE = UNITS / "smarthost.service"
SOCKETS = sorted(UNITS.glob("*.socket"))
CONFINE = Path(confine.__file__)


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """Copy the units as they would be installed, with a program that is there."""
    for unit in (SERVICE, *SOCKETS):
        text = unit.read_text().replace("/opt/smarthost/bin/smarthost", sys.executable)
        (tmp_path / unit.name).write_text(text)
    return [str(tmp_path / unit.name) for unit in (SERVICE, *SOCKETS)]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong_with_the_units(installed: list[str]) -> None:
    """No unknown key, no value that is passed over: what is written in a unit does hold."""
    told = analyze("verify", "--man=no", *installed)

    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_systemd_calls_the_service_well_confined(installed: list[str]) -> None:
    """A hole in the daemon gives little: systemd's figure of exposure is below 2 of 10 (an unconfined unit: 9.6)."""
    told = analyze("security", "--offline=true", "--threshold=20", installed[0])

    assert told.returncode == 0, told.stdout
    assert "OK" in told.stdout.splitlines()[-1]


def service() -> dict[str, list[str]]:
    return confine.read_unit(SERVICE)


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_unit_and_the_daemon_agree() -> None:
    """The times, exit codes and directories of the unit are those the daemon works with."""
    unit = service()

    assert seconds(unit["TimeoutStopSec"][0]) > daemon.GRACE_S + 10
    assert seconds(unit["TimeoutStartSec"][0]) > EXTENSION_S
    assert unit["RestartPreventExitStatus"] == [str(exits.CONFIG)]
    assert unit["Type"] == ["notify"]
    state = default_state_dir({"STATE_DIRECTORY": f"/var/lib/{unit['StateDirectory'][0]}"}, is_root=False)
    assert str(state) == "/var/lib/smarthost"


def test_the_user_and_the_spool_are_made_for_the_service() -> None:
    """sysusers and tmpfiles make what the unit names."""
    (user,) = service()["User"]
    users = [line.split() for line in (UNITS / "smarthost.sysusers").read_text().splitlines() if line[:1] != "#"]
    spool = [line.split() for line in (UNITS / "smarthost.tmpfiles").read_text().splitlines() if line[:1] != "#"]

    assert users[0][:2] == ["u", user]
    assert spool[-1] == ["d", "/var/spool/smarthost/maildrop", "3733", user, user, "-"]
    assert service()["ReadWritePaths"] == ["-/var/spool/smarthost"]


@pytest.mark.parametrize("unit", SOCKETS, ids=lambda unit: unit.name)
def test_each_socket_has_a_name_that_a_listener_may_have(unit: Path) -> None:
    """The name in the unit is one by which the daemon finds the listener; it is the daemon that accepts."""
    keys = confine.read_unit(unit)

    assert keys["FileDescriptorName"][0] in _MODES
    assert keys["Service"] == [SERVICE.name]
    assert keys["Accept"] == ["no"]


def confined(*command: str) -> list[str]:
    require(shutil.which("systemd-analyze"), "systemd-analyze is not installed: what a unit permits is not known")
    require([*Path("/usr/lib").glob("*/libseccomp.so.2")], "libseccomp2 is not installed: run tools/system-packages")
    require(Path("/proc/self/status").exists() and confine.bits("Seccomp"), "a kernel without seccomp")
    return [sys.executable, str(CONFINE), str(SERVICE), *command]


def test_the_confinement_of_these_tests_confines() -> None:
    """Memory to write and run, a netlink socket and chroot are refused: what follows was tried under real filters."""
    script = """
import mmap, os, socket
for attempt in (
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    lambda: os.chroot("/"),
):
    try:
        attempt()
    except OSError as error:
        print(error.errno)
"""
    told = subprocess.run(
        confined(sys.executable, "-c", script), capture_output=True, text=True, timeout=60, check=True
    )

    assert told.stdout.split() == ["1", "97", "1"]


CONFIG = """
hostname = "relay.example.org"

[tls]
certificate_file = "{pair.chain}"
key_file = "{pair.key}"

[auth]
users_file = "{users}"

[maildrop]
directory = "{spool}"

[[listener]]
listen = ["127.0.0.1:0"]

[[listener]]
listen = ["127.0.0.1:0"]
mode = "submission"

[[dkim]]
domains = ["example.org"]
selector = "s1"
key_file = "$CREDENTIALS_DIRECTORY/dkim.pem"
"""


@pytest.mark.slow
def test_the_daemon_works_within_what_the_unit_permits(tmp_path: Path) -> None:
    """Login, TLS, signing by RSA, the store and its process, delivery, control socket and stop: all under seccomp."""
    from smarthost.backends.users import hash_password

    authority = Authority(tmp_path)
    pair = authority.issue("relay.example.org")
    users = tmp_path / "users.toml"
    users.write_text(f'[alice]\npassword = "{hash_password("secret")}"\nsenders = ["alice@example.org"]\n')
    users.chmod(0o600)
    key = tmp_path / "dkim.pem"
    subprocess.run(
        [sys.executable, "-m", "smarthost", "dkim", "keygen", str(key)], check=True, timeout=60, capture_output=True
    )
    spool = tmp_path / "maildrop"  # as smarthost.tmpfiles makes it: the service may not chown
    spool.mkdir()
    spool.chmod(0o3733)
    file = tmp_path / "smarthost.toml"
    file.write_text(CONFIG.format(pair=pair, users=users, spool=spool))
    smtp, submission = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    client = ssl.create_default_context(cafile=str(authority.file))
    client.check_hostname = False

    with Sink() as sink, smtp, submission:
        where = ["--config", str(file), "--next-hop", f"127.0.0.1:{sink.port}"]
        environ = {"STATE_DIRECTORY": str(tmp_path / "state"), "CREDENTIALS_DIRECTORY": str(tmp_path)}
        sockets = {"smtp": smtp, "submission": submission}
        with managed(tmp_path, confined(*SERVE, *where), sockets, WATCHDOG_USEC="60000000", **environ) as running:
            running.wait_for("READY=1")
            with smtplib.SMTP("127.0.0.1", submission.getsockname()[1], timeout=30) as session:
                session.starttls(context=client)
                session.login("alice", "secret")
                session.sendmail(
                    "alice@example.org", ["bob@example.net"], b"From: alice@example.org\r\nSubject: x\r\n\r\ny\r\n"
                )
            with smtplib.SMTP("127.0.0.1", smtp.getsockname()[1], timeout=30) as session:
                large = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 5000
                session.sendmail("app@example.org", ["bob@example.net"], large)
            sink.wait_for(2)
            asked = [sys.executable, "-m", "smarthost", "ping", "--state-dir", str(tmp_path / "state")]
            told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
            code, log = running.stop()

    assert code == 0, log
    assert "takes and delivers mail" in told.stdout
    assert "Operation not permitted" not in log
    assert any(b"DKIM-Signature:" in message.content for message in sink.arrived), log


def test_systemd_makes_the_user_and_the_spool_from_these_files(tmp_path: Path) -> None:
    """sysusers and tmpfiles, run upon a scratch root, make what the unit and sendmail(1) need."""
    (tmp_path / "etc").mkdir()
    for name in ("sysusers", "tmpfiles"):
        words = [program(f"systemd-{name}"), f"--root={tmp_path}", "--create" if name == "tmpfiles" else "--"]
        file = str(UNITS / f"smarthost.{name}")
        subprocess.run([*words, file], check=True, timeout=60, capture_output=True)

    (line,) = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("smarthost:")]
    assert line.endswith(":/var/lib/smarthost:/usr/sbin/nologin")
    spool = (tmp_path / "var/spool/smarthost/maildrop").stat()
    assert stat.S_IMODE(spool.st_mode) == 0o3733
    assert spool.st_uid == int(line.split(":")[2])


def privileged() -> socket.socket:
    """Give a socket that listens below 1024, as systemd would bind it."""
    for port in range(1023, 600, -1):
        try:
            return socket.create_server(("127.0.0.1", port))
        except PermissionError:
            break
        except OSError:
            continue
    require(False, "only root may listen below 1024")
    raise AssertionError


@pytest.mark.slow
def test_a_privileged_port_needs_no_privilege(tmp_path: Path) -> None:
    """With every capability taken away the daemon serves the port that was passed, and cannot open one by itself."""
    none = [program("setpriv"), "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]
    place = ["--state-dir", str(tmp_path / "state"), "--hostname", "relay.example.org", "--next-hop", "127.0.0.1:9"]
    with privileged() as listening:
        port = listening.getsockname()[1]
        command = [*none, *SERVE, *place, "--listen", f"127.0.0.1:{port}"]
        with managed(tmp_path, command, {"smtp": listening}) as running:
            running.wait_for("READY=1")
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                assert client.recv(1000).startswith(b"220 ")
            code, log = running.stop()
    with managed(tmp_path, command) as refused:
        refused_code, told = refused.ended()

    assert code == 0, log
    assert refused_code == exits.CONFIG
    assert "CAP_NET_BIND_SERVICE" in told
