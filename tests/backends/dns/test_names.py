# SPDX-License-Identifier: MIT
"""What the machine knows about names: resolv.conf, the hosts file, the search list."""

import asyncio
import os
from pathlib import Path

import pytest

from smarthost.backends.dns import LocalNames, ResolvConf, SystemServers, read_hosts, read_resolv_conf
from smarthost.backends.dns import names as names_module
from smarthost.ports import Answer, AnswerStatus
from smarthost.testing.dns import Fault, ScriptedResolver, Zone


@pytest.mark.parametrize(
    ("text", "conf"),
    [
        ("", ResolvConf()),
        ("nameserver 192.0.2.53\n", ResolvConf((("192.0.2.53", 53),))),
        (
            "# comment\nnameserver 192.0.2.1 ; the first\n nameserver 2001:db8::1\nsearch Svc.Local. example.org\n"
            "options ndots:5 timeout:1\n",
            ResolvConf((("192.0.2.1", 53), ("2001:db8::1", 53)), ("svc.local", "example.org"), 5),
        ),
        ("domain example.org\n", ResolvConf(search=("example.org",))),
        (
            "".join(f"nameserver 192.0.2.{n}\n" for n in range(9)),
            ResolvConf(tuple((f"192.0.2.{n}", 53) for n in range(3))),
        ),
        ("options ndots:99\nnameserver\nsearch\nnonsense \xff\n", ResolvConf(ndots=15)),
        ("options ndots:x ndots:\n", ResolvConf()),
    ],
)
def test_resolv_conf_is_read_as_far_as_it_is_heeded(tmp_path: Path, text: str, conf: ResolvConf) -> None:
    """Servers, search list and ndots; what is wrong is passed over."""
    path = tmp_path / "resolv.conf"
    path.write_text(text)

    assert read_resolv_conf(path) == conf


def test_missing_files_count_as_empty(tmp_path: Path) -> None:
    """A machine without these files asks the server on loopback."""
    assert read_resolv_conf(tmp_path / "none") == ResolvConf((("127.0.0.1", 53),))
    assert read_hosts(tmp_path / "none") == {}


def test_hosts_file_is_read(tmp_path: Path) -> None:
    """Names in any case, several addresses to a name, and lines that are none."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n::1 localhost # six\n10.0.0.5  Relay relay.example.org.\nnonsense relay\n\n")

    assert read_hosts(path) == {
        "localhost": ("127.0.0.1", "::1"),
        "relay": ("10.0.0.5",),
        "relay.example.org": ("10.0.0.5",),
    }


def ask(names: LocalNames, name: str, rdtype: str = "A") -> Answer:
    return asyncio.run(names.ask(name, rdtype))


def test_hosts_file_comes_before_dns() -> None:
    """A name in the hosts file is not asked for, in neither family."""
    resolver = ScriptedResolver(Zone({"relay": ("A 192.0.2.1", "AAAA 2001:db8::1")}))
    names = LocalNames(resolver, {"relay": ("10.0.0.5",)})

    assert ask(names, "relay").addresses == ("10.0.0.5",)
    assert ask(names, "relay", "AAAA").status is AnswerStatus.NODATA
    assert not resolver.asked


ZONE = Zone(
    {"relay.svc.local": "A 10.0.0.1", "relay.example.org": "A 10.0.0.2", "relay.two": "A 10.0.0.3"},
    faults={"down": Fault.TIMEOUT},
)


@pytest.mark.parametrize(
    ("name", "ndots", "address", "asked"),
    [
        ("relay", 1, "10.0.0.1", ["relay.svc.local"]),
        ("relay.two", 1, "10.0.0.3", ["relay.two"]),
        ("relay.two", 2, "10.0.0.3", ["relay.two.svc.local", "relay.two.example.org", "relay.two"]),
        ("relay.svc", 1, None, ["relay.svc", "relay.svc.svc.local", "relay.svc.example.org"]),
    ],
)
def test_search_list_is_followed(name: str, ndots: int, address: str | None, asked: list[str]) -> None:
    """Short names are tried with the search list first, others as they are."""
    resolver = ScriptedResolver(ZONE)

    answer = ask(LocalNames(resolver, {}, ("svc.local", "example.org"), ndots), name)

    assert answer.addresses == ((address,) if address else ())
    assert [name for name, _ in resolver.asked] == asked


def test_failure_of_the_name_itself_is_what_counts() -> None:
    """When nothing is found the answer is that of the name as it was configured."""
    answer = ask(LocalNames(ScriptedResolver(ZONE), {}, ("svc.local",)), "down")

    assert (answer.name, answer.status) == ("down", AnswerStatus.TIMEOUT)


@pytest.mark.parametrize(("name", "broken"), [("new", "new.svc.local"), ("new.two", "new.two.svc.local")])
def test_name_that_may_exist_along_the_search_list_is_not_told_to_be_missing(name: str, broken: str) -> None:
    """A relay in a container network whose DNS fails for a moment is not "a name that does not exist"."""
    resolver = ScriptedResolver(Zone(faults={broken: Fault.SERVFAIL}))

    answer = ask(LocalNames(resolver, {}, ("svc.local",)), name)

    assert (answer.name, answer.canonical, answer.status) == (name, name, AnswerStatus.SERVFAIL)
    assert answer.detail == f"{broken}: scripted servfail"


def test_search_list_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six domains and a silent server do not make a question last a minute and a half."""
    monkeypatch.setattr(names_module, "SEARCH_S", 0.05)

    class Silent:
        async def ask(self, name: str, rdtype: str) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

    answer = ask(LocalNames(Silent(), {}, ("svc.local",)), "relay")

    assert (answer.name, answer.status) == ("relay", AnswerStatus.TIMEOUT)
    assert answer.detail == "no answer along the search list within 0.05 s in all"


# resolv.conf as it changes


def test_resolv_conf_is_read_again_when_it_changed(tmp_path: Path) -> None:
    """Rewritten in place, replaced by another file, or swapped by a link: the next look sees it."""
    path, other = tmp_path / "resolv.conf", tmp_path / "other"
    path.write_text("nameserver 192.0.2.1\n")
    servers = SystemServers(path)
    assert servers() == (("192.0.2.1", 53),)

    path.write_text("nameserver 192.0.2.22\n")
    assert servers() == (("192.0.2.22", 53),)
    other.write_text("nameserver 192.0.2.33\n")
    other.replace(path)
    assert servers() == (("192.0.2.33", 53),)
    other.write_text("nameserver 192.0.2.44\n")
    path.unlink()
    path.symlink_to(other)
    assert servers() == (("192.0.2.44", 53),)


@pytest.mark.parametrize("text", [None, "", "search example.org\n", "nameserver nonsense\n"])
def test_resolv_conf_without_servers_leaves_the_last_ones(tmp_path: Path, text: str | None) -> None:
    """A file that is just being replaced, or a network that is gone, is no reason to ask somebody else."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    servers = SystemServers(path)
    servers()
    path.unlink()
    if text is not None:
        path.write_text(text)

    assert servers() == (("192.0.2.1", 53),)
    path.write_text("nameserver 192.0.2.222\n")
    assert servers() == (("192.0.2.222", 53),)


def test_change_within_a_tick_of_the_file_system_is_seen(tmp_path: Path) -> None:
    """Two writers within four milliseconds leave the same time; the second one's servers count all the same."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    seen = path.stat()
    servers = SystemServers(path)
    servers()
    path.write_text("nameserver 192.0.2.2\n")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    assert servers() == (("192.0.2.2", 53),)


def test_unchanged_resolv_conf_is_only_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look costs a stat."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    servers = SystemServers(path)
    servers()
    servers()
    monkeypatch.setattr(Path, "read_text", lambda *_: pytest.fail("the file was read"))

    assert servers() == (("192.0.2.1", 53),)


def test_machine_without_resolv_conf_asks_its_own_server(tmp_path: Path) -> None:
    """As resolv.conf(5) has it; as soon as there is a file it counts."""
    servers = SystemServers(tmp_path / "none")
    assert servers() == (("127.0.0.1", 53),)

    (tmp_path / "none").write_text("nameserver 192.0.2.1\n")

    assert servers() == (("192.0.2.1", 53),)
