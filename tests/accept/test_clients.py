# SPDX-License-Identifier: MIT
"""accept.clients: what a client network may ask, alone and as a client sees it."""

from typing import Any

import pytest
from tests.accept.desk import STRANGER, Desk, Users, Wire

from smarthost.accept.clients import TABLE, Clients, ClientTerms, NetworkTerms, Rate
from smarthost.mail.errors import ConfigError
from smarthost.mail.user import User
from smarthost.smtp.limits import Limits
from smarthost.testing.clock import FakeClock

EHLO = b"EHLO c.example\r\n"
MAIL = b"MAIL FROM:<a@example.org>\r\n"
RCPT = b"RCPT TO:<b@example.net>\r\n"


def clients(*networks: NetworkTerms, **terms: Any) -> Clients:
    return Clients(ClientTerms(networks=networks, **terms), FakeClock().monotonic)


def limited(**rates: int) -> ClientTerms:
    return ClientTerms(others=NetworkTerms(connections=100, **rates))  # type: ignore[arg-type]


# -- whose terms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "network", "limit"),
    [
        ("10.1.2.3", "10.1.2.3/32", 8),
        ("10.1.3.3", "10.1.3.3/32", 16),
        ("10.9.9.9", "10.9.9.9/32", 1),
        ("::ffff:10.1.2.3", "10.1.2.3/32", 8),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", 64),
        ("2001:db9::1", "2001:db9::/64", 1),
        ("local", "local", 1),
        ("fe80::1%eth0", "fe80::/64", 1),
    ],
)
def test_the_narrowest_network_that_holds_a_client_counts(client: str, network: str, limit: int) -> None:
    """However the networks are ordered; a client is counted by address, or by /64."""
    found = clients(
        NetworkTerms(networks=("10.1.0.0/16",), connections=16),
        NetworkTerms(networks=("10.1.2.0/24", "2001:db8::/32"), connections=8),
        NetworkTerms(networks=("2001:db8:1::/48",), connections=64),
        others=NetworkTerms(connections=1),
    ).find(client)

    assert (network, limit) == (found.network, found.terms.connections)


def test_a_host_with_terms_of_its_own_shares_nothing_with_its_neighbours() -> None:
    """Else whoever came first would decide what the whole /64 may."""
    host = NetworkTerms(networks=("2001:db8::25/128",), connections=2, messages_per_minute=3)
    table = clients(host, others=NetworkTerms(connections=1, messages_per_minute=1))
    neighbour = table.allowance_of(table.find("2001:db8::bad"))
    server = table.allowance_of(table.find("2001:db8::25"))

    assert neighbour is not None
    assert server is not None
    assert [True, False] == [neighbour.take_message(0.0) for _ in range(2)]
    assert [True, True, True, False] == [server.take_message(0.0) for _ in range(4)]
    assert table.enter("2001:db8::bad")
    assert table.enter("2001:db8::25")
    assert table.enter("2001:db8::25")


@pytest.mark.parametrize("rates", [{"recipients_per_minute": 1}, {"messages_per_minute": 1}])
def test_who_is_told_a_thousand_times_to_come_later_fills_no_log(rates: dict[str, int]) -> None:
    """4xx are no errors that end a session: it goes on as long as the client likes."""
    desk = Desk(clients=limited(**rates))
    again = MAIL if "messages_per_minute" in rates else RCPT

    answer = desk.say(EHLO + MAIL + (b"RSET\r\n" if again is MAIL else RCPT) + again * 1000)

    assert 1000 == answer.count(b"in this minute, try again later\r\n")
    assert 1 == len(desk.notes)


def test_prefixes_of_client_networks_can_be_chosen() -> None:
    """A /24 and a /48 count as one client each."""
    table = clients(ipv4_prefix=24, ipv6_prefix=48, others=NetworkTerms(connections=1))

    assert table.enter("192.0.2.1")
    assert not table.enter("192.0.2.200")
    assert table.enter("2001:db8:1:2::1")
    assert not table.enter("2001:db8:1:3::1")


@pytest.mark.parametrize("network", ["10.0.0.1/8", "ten", ""])
def test_what_is_no_network_is_named(network: str) -> None:
    """A typing error is told at the start."""
    with pytest.raises(ConfigError) as error:
        clients(NetworkTerms(networks=(network,)))

    assert "networks" == error.value.key


def test_a_network_described_twice_is_a_contradiction() -> None:
    """Nobody knows which one was meant."""
    with pytest.raises(ConfigError):
        clients(NetworkTerms(networks=("10.0.0.0/8",)), NetworkTerms(networks=("10.0.0.0/8",)))


# -- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [1, 7, 60, 1000])
def test_a_rate_lets_a_minutes_worth_through_at_once_and_then_drips(per_minute: int) -> None:
    """Exactly as many as the limit says; half a minute later half of it."""
    rate = Rate(per_minute)

    assert per_minute == sum(rate.take(1000.0) for _ in range(2 * per_minute))
    assert per_minute // 2 == sum(rate.take(1030.0) for _ in range(2 * per_minute))
    assert per_minute == sum(rate.take(5000.0) for _ in range(2 * per_minute))


def test_a_rate_of_zero_lets_nothing_through() -> None:
    """No division by it, either."""
    assert not Rate(0).take(1000.0)


def test_memory_for_rates_is_bounded() -> None:
    """A /32 of IPv6 networks passes by: the least recent are forgotten, a faithful one is not."""
    table = clients(others=NetworkTerms(messages_per_minute=1))
    faithful = table.allowance_of(table.find("192.0.2.1"))
    assert faithful is not None
    assert faithful.take_message(1000.0)
    for n in range(TABLE + 500):
        table.allowance_of(table.find(f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::1"))
        if n % 1000 == 0:
            assert table.allowance_of(table.find("192.0.2.1")) is faithful

    assert TABLE == len(table)


def test_nobody_is_remembered_without_limits() -> None:
    """What costs nothing keeps nothing."""
    table = clients()
    for _ in range(100):
        assert table.enter("192.0.2.1")

    assert not table.find("192.0.2.1").is_rated
    assert table.allowance_of_user(User("alice")) is None
    assert 0 == len(table)


# -- as a client sees it ---------------------------------------------------------------------------------------------


def test_one_network_too_often_at_once_is_421_at_the_banner() -> None:
    """By default Limits.connections_per_client, for an IPv6 /64 together; another network is welcome."""
    desk = Desk(client="2001:db8::1", limits=Limits(connections_per_client=2))
    second, third, other = Wire("2001:db8::2"), Wire("2001:db8::3"), Wire("2001:db8:0:1::1")
    for wire in (second, third, other):
        desk.accept(wire)

    assert second.written[0].startswith(b"220")
    assert third.written[0].startswith(b"421 4.7.0")
    assert third.is_closed
    assert other.written[0].startswith(b"220")


def test_a_network_may_have_more_connections_than_others() -> None:
    """NetworkTerms.connections stands before the default; None is no limit."""
    terms = ClientTerms(networks=(NetworkTerms(networks=("127.0.0.0/8",)),))
    desk = Desk(limits=Limits(connections_per_client=1), clients=terms)

    assert all(desk.connect().startswith(b"220") for _ in range(50))


def test_connections_in_a_minute_are_counted_though_they_ended() -> None:
    """Come and go quickly: 421 after the limit, and welcome again as the minute passes."""
    desk = Desk(clients=limited(connections_per_minute=3))
    heard = []
    for _ in range(5):
        desk.reception.lost(None)
        heard.append(desk.connect()[:9])
    desk.reception.lost(None)
    desk.clock.advance(60)

    assert [b"220 relay"] * 2 + [b"421 4.7.0"] * 3 == heard
    assert desk.connect().startswith(b"220")
    assert 1 == desk.notes.count("too many connections")


def test_messages_in_a_minute_are_counted_at_mail() -> None:
    """450 4.7.1, the session goes on; over sessions of the same network."""
    desk = Desk(clients=limited(messages_per_minute=2))
    first = desk.say(EHLO + (MAIL + b"RSET\r\n") * 2)
    desk.reception.lost(None)
    desk.connect()
    second = desk.say(EHLO + MAIL)
    desk.clock.advance(31)

    assert 2 == first.count(b"250 2.1.0")
    assert second.endswith(b"450 4.7.1 Too many messages in this minute, try again later\r\n")
    assert desk.say(MAIL).startswith(b"250")


def test_recipients_in_a_minute_are_counted_at_rcpt() -> None:
    """452 4.7.1 for those beyond; those accepted go."""
    desk = Desk(clients=limited(recipients_per_minute=3))
    heard = desk.say(EHLO + MAIL + RCPT * 5 + b"DATA\r\n")
    desk.say(b"x\r\n.\r\n")

    assert 3 == heard.count(b"250 2.1.5")
    assert 2 == heard.count(b"452 4.7.1")
    assert 3 == len(desk.adding[0][0].envelope.recipients)


def test_refused_recipients_do_not_use_up_what_is_allowed() -> None:
    """A stranger's probes are errors, not recipients."""
    desk = Desk(client=STRANGER, postmaster="ops@example.org", clients=limited(recipients_per_minute=1))
    desk.say(EHLO + MAIL + RCPT * 5)

    assert desk.say(b"RCPT TO:<postmaster>\r\n").startswith(b"250")


def test_errors_in_a_minute_end_the_session_and_keep_the_network_out() -> None:
    """421, and 421 at the banner for a minute; whoever makes the errors, the machine or policy."""
    desk = Desk(client=STRANGER, clients=limited(errors_per_minute=5))
    heard = desk.say(EHLO + b"BOGUS\r\n" * 3 + MAIL + RCPT * 3)
    desk.reception.lost(None)
    early = desk.connect()
    desk.reception.lost(None)
    desk.clock.advance(61)

    assert heard.endswith(b"421 4.7.0 Too many errors in this minute, try again later\r\n")
    assert early == b"421 4.7.0 Too many errors from your network, try again later\r\n"
    assert (1, 0) == (desk.notes.count("too many errors"), desk.notes.count("too many connections"))
    assert desk.connect().startswith(b"220")


def test_errors_count_over_sessions() -> None:
    """Five sessions with one error each are five errors."""
    desk = Desk(client=STRANGER, clients=limited(errors_per_minute=3))
    for _ in range(3):
        desk.say(b"BOGUS\r\n")
        desk.reception.lost(None)
        desk.connect()

    assert desk.say(b"BOGUS\r\n").endswith(b"421 4.7.0 Too many errors in this minute, try again later\r\n")


def test_too_many_errors_do_not_cut_off_the_answer_to_a_message() -> None:
    """While a message is filed nothing but its answer is said; a 421 in its place would make a duplicate."""
    desk = Desk(clients=limited(errors_per_minute=0))
    desk.say(EHLO + MAIL + RCPT)
    at_end = desk.say(b"NOOP\x07\r\nBDAT 3 LAST\r\nx\r\n")

    assert at_end.startswith(b"50")
    assert b"421" not in at_end
    assert desk.commit().startswith(b"250 2.0.0")
    assert desk.say(b"BOGUS\r\n").endswith(b"421 4.7.0 Too many errors in this minute, try again later\r\n")


def test_a_user_has_limits_of_his_own() -> None:
    """From two networks at once he has his limit once; a user without limits has none."""
    user = User("alice", ("*",), messages_per_minute=2, recipients_per_minute=3)
    users = Users(user)
    login = b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"
    desk = Desk(users=users)
    first = desk.say(EHLO + login + MAIL + RCPT * 2 + b"RSET\r\n")
    desk.connect("127.0.0.2")
    second = desk.say(EHLO + login + MAIL + RCPT * 2 + b"RSET\r\n" + MAIL)

    assert 2 == first.count(b"250 2.1.5")
    assert (1, 1) == (second.count(b"250 2.1.5"), second.count(b"452 4.7.1"))
    assert second.endswith(b"450 4.7.1 Too many messages in this minute, try again later\r\n")


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        (b"app@example.org", b"250"),
        (b"APP@Example.org", b"250"),
        (b"x@news.example.org", b"250"),
        (b"x@example.org", b"550 5.7.1"),
        (b"", b"250"),  # reports of its machines
    ],
)
def test_a_network_may_be_held_to_its_senders(sender: bytes, reply: bytes) -> None:
    """550 5.7.1 names the sender, the client, and what would allow it."""
    terms = NetworkTerms(networks=("127.0.0.0/8",), senders=("app@example.org", "@news.example.org"))
    desk = Desk(clients=ClientTerms(networks=(terms,)))
    desk.say(EHLO)

    answer = desk.say(b"MAIL FROM:<" + sender + b">\r\n")

    assert answer.startswith(reply)
    if not sender.startswith((b"a", b"A")) and reply != b"250":
        assert b"Sender denied: x@example.org is not among the senders of the network of 127.0.0.1" in answer


def test_a_user_is_held_to_his_own_senders_only() -> None:
    """Who logs in from such a network is himself, not one of its machines."""
    terms = NetworkTerms(networks=("127.0.0.0/8",), senders=("app@example.org",))
    desk = Desk(clients=ClientTerms(networks=(terms,)), users=Users(User("alice", ("alice@example.org",))))
    desk.say(EHLO + b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n")

    assert desk.say(b"MAIL FROM:<app@example.org>\r\n").startswith(b"550 5.7.1")
    assert desk.say(b"MAIL FROM:<alice@example.org>\r\n").startswith(b"250")
