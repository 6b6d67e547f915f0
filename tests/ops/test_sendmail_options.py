# SPDX-License-Identifier: MIT
"""sendmail's command line, as programs write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.ops import exits, sendmail_options
from smarthost.ops.sendmail_options import Asked, Complaint, read_options


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        # Vixie cron, and Debian's of today
        (
            "-FCronDaemon -i -odi -oem -oi -t -f root",
            Asked(reads_recipients=True, ignores_dots=True, sender="root", full_name="CronDaemon"),
        ),
        (
            "-FCronDaemon -i -B8BITMIME -oem root",
            Asked(addresses=("root",), ignores_dots=True, full_name="CronDaemon"),
        ),
        # PHP's sendmail_path, and what mail()'s fifth parameter adds
        ("-t -i", Asked(reads_recipients=True, ignores_dots=True)),
        ("-t -i -fweb@example.org", Asked(reads_recipients=True, ignores_dots=True, sender="web@example.org")),
        ("-ti", Asked(reads_recipients=True, ignores_dots=True)),
        # mutt, with dsn_notify and use_8bitmime
        (
            "-oem -oi -f me@example.org -N failure -R hdrs -B8BITMIME -- you@example.net",
            Asked(addresses=("you@example.net",), ignores_dots=True, sender="me@example.org"),
        ),
        # git send-email
        (
            "-f me@example.org -i you@example.net list@example.net",
            Asked(addresses=("you@example.net", "list@example.net"), ignores_dots=True, sender="me@example.org"),
        ),
        # logwatch, mdadm, smartd, at
        ("-t", Asked(reads_recipients=True)),
        ("-i root", Asked(addresses=("root",), ignores_dots=True)),
        # bsd-mailx; old scripts
        ("-i -m root -s", Asked(addresses=("root",), ignores_dots=True)),
        ("root -f me", Asked(addresses=("root",), sender="me")),
        ("-f<> you@example.net", Asked(addresses=("you@example.net",), sender="<>")),
        (
            "-r me -O DeliveryMode=b -oQ/tmp/q -d0.1 -X /dev/null -h 20 -L tag -G -U -Am -V id -p x root",
            Asked(addresses=("root",), sender="me"),
        ),
        ("-v -C /etc/x.toml root", Asked(addresses=("root",), config="/etc/x.toml", is_verbose=True)),
        ("-- -f root", Asked(addresses=("-f", "root"))),
        ("- x", Asked(addresses=("-", "x"))),
        ("-bm root", Asked(addresses=("root",))),
        ("-bs", Asked(mode="session")),
        ("-bp", Asked(mode="list")),
        ("-bv root", Asked(mode="verify", addresses=("root",))),
        ("-bi", Asked(mode="aliases")),
        ("-I", Asked(mode="aliases")),
        ("-q", Asked(flush="")),
        ("-q30m", Asked(flush="30m")),
        ("-qRexample.org", Asked(flush="Rexample.org")),
    ],
)
def test_what_programs_write_is_understood(command: str, asked: Asked) -> None:
    """A program that worked with another sendmail works with this one."""
    assert asked == read_options(command.split())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("-f", "option -f needs a value"),
        ("-tf", "option -f needs a value"),
        ("-y", "no such option: -y (an address that begins with a dash goes behind --)"),
        ("-bd -q30m", "-bd: this sendmail is no daemon: start `smarthost serve`"),
        ("-bl", "-bl: this sendmail is no daemon: start `smarthost serve`"),
        ("-bt", "no such mode: -bt (there are -bm, -bs, -bp, -bv and -bi)"),
    ],
)
def test_what_cannot_be_done_is_said(command: str, said: str) -> None:
    """A wrong command line ends with 64 and one line."""
    with pytest.raises(Complaint) as caught:
        read_options(command.split())

    assert (said, exits.USAGE) == (str(caught.value), caught.value.code)


@given(st.lists(st.text(max_size=8)))
def test_any_command_line_is_read_or_refused(words: list[str]) -> None:
    """Nothing that a caller writes ends in a traceback; what is behind -- is an address, whatever it looks like."""
    try:
        asked = read_options(["-f", "me", "--", *words])
        assert tuple(words) == asked.addresses
        read_options(words)
    except Complaint as error:
        complaint = error.code
    else:
        complaint = exits.USAGE
    assert complaint == exits.USAGE


def test_the_exit_codes_are_those_of_all_commands() -> None:
    """The standard-library copy of the numbers is no other set."""
    names = ("USAGE", "BAD_INPUT", "UNAVAILABLE", "SOFTWARE", "IO_ERROR", "TEMPORARY", "NO_PERMISSION", "CONFIG")

    assert [getattr(exits, name) for name in names] == [getattr(sendmail_options, name) for name in names]
