# SPDX-License-Identifier: MIT
"""AUTH: who guesses waits, and learns nothing; who knows his password does not."""

from base64 import b64encode

import pytest
from tests.accept.desk import ALICE, STRANGER, Certificate, Desk, Users

from smarthost.accept.authentication import (
    BAN_S,
    FADE_S,
    NAME_FAILURES,
    NETWORK_FAILURES,
    PENDING,
    SESSION_FAILURES,
    WELCOME_FAILURES,
    Decision,
    LoginGuard,
)
from smarthost.accept.listeners import Mode
from smarthost.accept.recent import Seldom
from smarthost.mail.errors import StoreBusy, StoreError
from smarthost.mail.record import Record
from smarthost.smtp.wire import AuthReceived
from smarthost.testing.clock import FakeClock

EHLO = b"EHLO c.example\r\n"


def plain(user: str = "alice", password: str = "secret") -> bytes:
    return b"AUTH PLAIN " + b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


def submissions(users: Users | None = None) -> Desk:
    """A session inside TLS that may log in."""
    desk = Desk(client=STRANGER, mode=Mode.SUBMISSIONS, tls=Certificate(), users=users or Users())
    desk.shake()
    desk.say(EHLO)
    return desk


def reconnect(desk: Desk, client: str = STRANGER) -> None:
    desk.reception.lost(None)
    desk.connect(client)
    desk.shake()
    desk.say(EHLO)


# -- at the wire -----------------------------------------------------------------------------------------------------


def test_a_right_password_is_answered_at_once() -> None:
    """235 2.7.0, without any delay; a second AUTH is out of sequence (RFC 4954 4)."""
    desk = submissions()

    assert desk.say(plain()) == b"235 2.7.0 Authentication successful\r\n"
    assert desk.say(plain()).startswith(b"503")


def test_login_asks_for_name_and_password() -> None:
    """AUTH LOGIN is what old clients speak."""
    desk = submissions()

    assert desk.say(b"AUTH LOGIN\r\n").startswith(b"334")
    assert desk.say(b64encode(b"alice") + b"\r\n").startswith(b"334")
    assert desk.say(b64encode(b"secret") + b"\r\n").startswith(b"235")


def test_a_wrong_password_and_an_unknown_user_cannot_be_told_apart() -> None:
    """The same octets, after the same time (RFC 4954 6)."""
    heard = []
    for user, password in (("alice", "wrong"), ("nobody", "secret")):
        desk = submissions()
        desk.say(plain(user, password))
        heard.append((desk.wait(0.99), desk.wait(0.02)))

    assert heard[0] == heard[1]
    assert heard[0] == (b"", b"535 5.7.8 Authentication failed: user name or password is wrong\r\n")


def test_failures_are_answered_later_and_later_and_the_third_ends_the_session() -> None:
    """1 s, 2 s, 4 s; then 421. What comes meanwhile waits, other sessions do not."""
    desk = submissions()
    heard = []
    for delay_s in (1, 2, 4):
        assert b"" == desk.say(plain("alice", "wrong"))
        assert b"" == desk.wait(delay_s - 0.05)
        heard.append(desk.wait(0.06))

    assert [b"535"] * 3 == [answer[:3] for answer in heard]
    assert b"\r\n421 4.7.0 Too many failed logins" in heard[2]
    assert desk.wire.is_closed
    assert SESSION_FAILURES == 3


def test_the_delay_is_that_of_the_network_and_bounded() -> None:
    """A new session does not begin anew; nobody waits longer than 30 s."""
    desk = submissions()
    delays = []
    for _ in range(10):
        desk.say(plain("alice", "wrong"))
        begun = desk.clock.monotonic()
        while not desk.wait(0.5):
            pass
        delays.append(desk.clock.monotonic() - begun)
        reconnect(desk)

    assert [1.0, 2.0, 4.0, 8.0, 16.0] == delays[:5]
    assert 30.0 == max(delays)


def test_another_network_is_not_slowed_down() -> None:
    """While one client waits for its no, another's yes is at once."""
    desk = submissions()
    desk.say(plain("alice", "wrong"))
    first = desk.reception
    desk.connect("192.0.2.99")
    desk.shake()
    desk.say(EHLO)

    assert desk.say(plain()).startswith(b"235")
    assert desk.reception is not first


def test_what_is_pipelined_behind_auth_waits_for_its_answer() -> None:
    """Nothing is answered while a password is checked, and then in order."""
    users = Users()
    users.waits = True
    desk = submissions(users)

    early = desk.say(plain() + b"MAIL FROM:<alice@example.org>\r\n")
    before = len(desk.wire.written)
    users.waiting.pop()()
    late = b"".join(desk.wire.written[before:])

    assert b"" == early
    assert late.startswith(b"235 ")
    assert late.endswith(b"250 2.1.0 Ok\r\n")


def test_a_client_that_goes_away_meanwhile_leaves_nothing_but_its_failure() -> None:
    """The answer comes to nobody; the failure is counted all the same, or guessing would be free."""
    users = Users()
    users.waits = True
    desk = submissions(users)
    desk.say(plain("alice", "wrong"))

    desk.reception.lost(None)
    users.waiting.pop()()
    late = desk.wait(60)
    users.waits = False
    reconnect(desk)
    desk.say(plain("alice", "wrong"))

    assert b"" == late
    assert b"" == desk.wait(1.5)  # the second failure: 2 s
    assert desk.wait(0.6).startswith(b"535")


def test_a_client_that_goes_away_while_it_waits_for_its_no_leaves_nothing() -> None:
    """No deadline fires into a session that is over."""
    desk = submissions()
    desk.say(plain("alice", "wrong"))
    desk.reception.lost(None)

    assert b"" == desk.wait(100)
    assert 0 == len(desk.receptions)
    assert desk.clock.next_due_s is None


def test_a_check_that_never_ends_is_temporary() -> None:
    """After a minute: 454; a yes that comes later is nobody's."""
    users = Users()
    users.waits = True
    desk = submissions(users)
    desk.say(plain())

    late = desk.wait(61)
    users.waiting.pop()()

    assert late.startswith(b"454 4.7.0")
    assert desk.say(b"MAIL FROM:<alice@example.org>\r\n").startswith(b"530 5.7.0")


def test_users_that_cannot_be_read_are_temporary() -> None:
    """A broken users file refuses nobody for good."""
    users = Users()
    users.failure = StoreError("no such file")
    desk = submissions(users)

    assert desk.say(plain()).startswith(b"454 4.7.0")
    assert ["users cannot be read"] == desk.notes


def test_a_bug_while_checking_is_a_local_error() -> None:
    """An exception is noted, the client may come again, and it is nobody."""
    users = Users()
    users.check = None  # type: ignore[method-assign,assignment]
    desk = submissions(users)

    assert desk.say(plain()).startswith(b"451 4.3.0")
    assert desk.say(b"MAIL FROM:<alice@example.org>\r\n").startswith(b"530 5.7.0")
    assert desk.wait(301).startswith(b"421 4.4.2")


def test_passwords_are_never_told() -> None:
    """Neither a note nor a repr has what was said as password, right or wrong, or a control character of the name."""
    desk = submissions()
    desk.say(plain("ali ce", "hunter2-wrong"))
    desk.wait(40)
    desk.say(plain("alice", "secret"))

    told = repr((desk.notes, desk.facts, desk.reception, vars(desk.reception)))

    assert "hunter2" not in told
    assert "secret" not in told
    assert {"client": STRANGER, "user": "ali ce"} in desk.facts


def test_a_user_logged_in_stays_so_after_rset_and_ehlo_but_not_after_starttls() -> None:
    """RFC 4954 4: only TLS makes a session forget who it is (RFC 3207 4.2)."""
    users = Users()
    desk = Desk(mode=Mode.SUBMISSION, tls=Certificate(), users=users)  # loopback: AUTH in clear
    desk.say(EHLO + plain())
    before = desk.say(b"MAIL FROM:<alice@example.org>\r\nRSET\r\nEHLO c\r\nMAIL FROM:<alice@example.org>\r\nRSET\r\n")
    desk.say(b"STARTTLS\r\n")
    desk.shake()

    after = desk.say(EHLO + b"MAIL FROM:<alice@example.org>\r\n")

    assert 2 == before.count(b"250 2.1.0 Ok")
    assert after.endswith(b"530 5.7.0 Authentication required\r\n")


def test_a_network_that_guesses_is_not_asked_any_more() -> None:
    """Beyond the limit right and wrong passwords get the same 454 for a while; the log has one line about it."""
    users = Users()
    desk = submissions(users)
    for n in range(NETWORK_FAILURES + 10):
        desk.say(plain(f"user{n}", "wrong"))
        reconnect(desk)  # who guesses does not wait for the answer
    asked = len(users.asked)
    wrong, right = desk.say(plain("alice", "wrong")), desk.say(plain())

    assert wrong == right == b"454 4.7.0 Too many failed logins, try again later\r\n"
    assert asked < NETWORK_FAILURES + 10
    assert asked == len(users.asked)
    assert 1 == desk.notes.count("too many failed logins from a network")
    assert STRANGER in str(desk.facts[desk.notes.index("too many failed logins from a network")])
    desk.wait(BAN_S - 60)
    reconnect(desk)
    assert desk.say(plain()).startswith(b"454")
    desk.wait(120)
    reconnect(desk)
    assert desk.say(plain()).startswith(b"235")


# -- the guard alone -------------------------------------------------------------------------------------------------


class Gate:
    """A LoginGuard that is asked directly."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.users = Users()
        self.notes: list[str] = []
        self.guard = LoginGuard(self.clock, Seldom(self, self.clock))

    def record(self, record: Record) -> None: ...

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append(what)

    def ask(self, network: str, name: str = "alice", password: str = "wrong") -> Decision | None:
        decided: list[Decision] = []
        self.guard.check(self.users, AuthReceived("PLAIN", name, password), network, decided.append)
        return decided[0] if decided else None


def test_failures_fade() -> None:
    """A phone with an old password that asks every few minutes is never shut out."""
    gate = Gate()

    decisions = []
    for _ in range(500):
        decisions.append(gate.ask("192.0.2.1/32"))
        gate.clock.advance(FADE_S + 1)

    assert all(each is not None and each.reply.code == 535 and each.delay_s == 1.0 for each in decisions)


def test_a_name_guessed_at_from_everywhere_still_works_from_where_it_works() -> None:
    """A hundred networks guess at alice: hers is asked as before, an unknown one is not; bob is not concerned."""
    gate = Gate()
    gate.clock.advance(BAN_S)
    assert gate.ask("192.0.2.1/32", password="secret") is not None
    for n in range(NAME_FAILURES):
        gate.ask(f"198.51.100.{n}/32")

    unknown, home = gate.ask("203.0.113.9/32", password="secret"), gate.ask("192.0.2.1/32", password="secret")

    assert unknown is not None
    assert 454 == unknown.reply.code
    assert home is not None
    assert ALICE is home.user
    assert 535 == (gate.ask("203.0.113.9/32", "bob") or home).reply.code
    assert ["too many failed logins of a user"] == gate.notes


def test_asking_for_much_at_once_is_no_way_around_the_limit() -> None:
    """Who has failed may not have more claims under way than it may still fail."""
    gate = Gate()
    for _ in range(NETWORK_FAILURES - 5):
        gate.ask("192.0.2.1/32")
    gate.users.waits = True

    decisions = [gate.ask("192.0.2.1/32") for _ in range(200)]

    assert 5 == len(gate.users.waiting) == decisions.count(None)


def test_one_address_does_not_fill_the_queue_of_passwords() -> None:
    """A hundred first claims at once: some are checked, the others and nobody else hear 454, and the log one line."""
    gate = Gate()
    gate.ask("192.0.2.1/32", password="secret")
    gate.users.waits = True

    decisions = [gate.ask("192.0.2.1/32", "eve") for _ in range(100)]

    assert PENDING == decisions.count(None)
    assert {454} == {each.reply.code for each in decisions if each is not None}
    assert ["too many logins at once"] == gate.notes
    assert gate.ask("192.0.2.1/32") is None  # who works there is asked all the same
    assert gate.ask("192.0.2.2/32", "eve") is None
    for answer in gate.users.waiting:
        answer()
    assert gate.ask("192.0.2.1/32", "bob") is None


def test_too_many_who_wait_is_not_a_broken_users_file() -> None:
    """The operator reads which of the two it is; and whatever a check raises, nothing stays pending."""
    gate = Gate()
    gate.users.failure = StoreBusy("too many")
    for _ in range(2 * PENDING):
        assert 454 == gate.ask("192.0.2.1/32").reply.code  # type: ignore[union-attr]
    gate.users.failure = ValueError("bug")  # type: ignore[assignment]
    for _ in range(2 * PENDING):
        with pytest.raises(ValueError, match="bug"):
            gate.ask("192.0.2.1/32")
    gate.users.failure = None

    assert ["too many logins at once"] == gate.notes
    assert 235 == gate.ask("192.0.2.1/32", password="secret").reply.code  # type: ignore[union-attr]


def test_a_program_with_an_old_password_does_not_shut_out_its_office() -> None:
    """Who has logged in from a network is asked there, until he himself fails often; others are not."""
    gate = Gate()
    for _ in range(2):
        gate.ask("192.0.2.1/32", "alice", "secret")
    for _ in range(NETWORK_FAILURES):
        gate.ask("192.0.2.1/32", "bob")
    stranger, alice = gate.ask("192.0.2.1/32", "bob"), gate.ask("192.0.2.1/32", "alice", "secret")
    guesses = [gate.ask("192.0.2.1/32", "alice") for _ in range(WELCOME_FAILURES + 5)]

    assert (454, 235) == (stranger.reply.code, alice.reply.code)  # type: ignore[union-attr]
    assert [535] * WELCOME_FAILURES + [454] * 5 == [each.reply.code for each in guesses if each is not None]


def test_right_after_a_start_no_name_is_shut_out() -> None:
    """Where a user works is not known yet: who guessed at him before the restart must not keep him out."""
    gate = Gate()
    for n in range(2 * NAME_FAILURES):
        gate.ask(f"198.51.100.{n}/32")

    assert 235 == gate.ask("203.0.113.9/32", password="secret").reply.code  # type: ignore[union-attr]


def test_a_million_guessers_cost_bounded_memory() -> None:
    """Who was unseen for longest is forgotten; long names are cut."""
    gate = Gate()
    for n in range(10_500):
        gate.ask(f"2001:db8:0:{n:x}::/64", "n" * 10_000 + str(n))

    assert len(gate.guard) <= 3 * 10_000


@pytest.mark.parametrize("count", [1, 5])
def test_a_long_name_is_no_other_name(count: int) -> None:
    """Names that differ only far behind count as one, which only makes guessing slower."""
    gate = Gate()
    for n in range(count):
        gate.ask(f"192.0.2.{n}/32", "n" * 400 + str(n))

    assert count + 1 == len(gate.guard)
