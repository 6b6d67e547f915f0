# SPDX-License-Identifier: MIT
"""The part of a report that people read: which recipient, what became of it, what the other host said, what to do.

Pure. Recipients of one fate stand together under a sentence that says it. Promises nothing that we do not know: mail
handed on to a host that reports nothing is not called delivered.
"""

from smarthost.mail.settlement import OwedReport, SettledRecipient
from smarthost.settle.dsn_status import Action, Times, action_of, status_of
from smarthost.settle.writing import clean, clean_sentence, clean_word, format_date, sound_host, wrap

_ADVICE = (  # the first whose subject, or subject and detail, fits (RFC 3463 3)
    (".1.1", "The address does not exist there. Check it for mistakes, or ask the recipient for the right one."),
    (".1.2", "The domain does not exist. Check what stands behind the @ for mistakes."),
    (".1.10", "The domain takes no mail at all. Check what stands behind the @ for mistakes."),
    (".1", "Check the address for mistakes."),
    (".2.2", "The mailbox is full. Try again later, or reach the recipient another way."),
    (".2.3", "The message is too large for this mailbox. Send less, or a link to it."),
    (".2", "The mailbox does not take mail now. Reach the recipient another way."),
    (".3.4", "The message is too large for that host. Send less, or a link to it."),
    (".4.7", "Nothing is known to be wrong with your message. Send it again if it still matters."),
    (".4.6", "The mail would go in circles. Your postmaster, or that of the recipient's domain, must repair that."),
    (".6.7", "That host does not take internationalised addresses. Ask the recipient for one in plain ASCII."),
    (".7", "That host's policy refuses it. What it said is meant for your postmaster, or for the recipient's."),
    ("", "If what the host said does not help, show this report to your postmaster."),
)

_SUBJECTS = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.RELAYED: "Your message was handed on",
    Action.DELIVERED: "Your message was delivered",
}


def subject_of(actions: frozenset[Action]) -> str:
    """Give the subject of a report about recipients with these fates."""
    if len(actions) == 1:
        return _SUBJECTS[next(iter(actions))]
    if Action.FAILED in actions:
        return "Your message could not be delivered to all recipients"
    if Action.DELAYED in actions:
        return "Your message is delayed for some recipients"
    return "Your message was delivered or handed on"


def write_text(owed: OwedReport, reporting_mta: str, times: Times, *, is_whole: bool) -> bytes:
    """Write the text. `is_whole`: the whole message is attached, and not only its header section."""
    by_action: dict[Action, list[SettledRecipient]] = {}
    for recipient in owed.recipients:
        by_action.setdefault(action_of(recipient), []).append(recipient)
    lines = [f"This is the mail relay {clean(reporting_mta)}.", ""]
    if len(by_action) > 1:
        lines += ["Not all recipients of your message fared alike; here is what became of which.", ""]
    for action in Action:
        recipients = by_action.get(action)
        if recipients:
            lines += [*_introduce(action, times), ""]
            for recipient in recipients:
                lines += _explain(recipient, action)
    lines += [
        f"We had accepted the message on {format_date(owed.received_at)}.",
        f"If you ask your postmaster about it, name its id here: {clean_word(owed.id)}",
        "The message is attached." if is_whole else "Its header section is attached, its body is not.",
    ]
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n"


def _introduce(action: Action, times: Times) -> list[str]:
    if action is Action.FAILED:
        return [
            "Your message could not be delivered to the recipients below. This is final:",
            "it will not be tried again.",
        ]
    if action is Action.DELAYED:
        lines = [
            "Your message has not been delivered to the recipients below yet. This is a",
            "warning only, you need not send it again: it is still being tried",
        ]
        if times.expires_at is not None:
            return [*lines, f"until {format_date(times.expires_at)}."]
        return [*lines[:-1], f"{lines[-1]}."]
    if action is Action.RELAYED:
        return [
            "Your message was handed on for the recipients below to hosts that do not report",
            "deliveries. You will hear of it again only if something goes wrong there.",
        ]
    return ["Your message was delivered to the recipients below."]


def _explain(recipient: SettledRecipient, action: Action) -> list[str]:
    lines = [f"<{clean(recipient.address)}>"]
    is_success = action in (Action.RELAYED, Action.DELIVERED)
    if recipient.why and not is_success:
        lines += wrap(clean_sentence(recipient.why).split(), "  ")
    if recipient.last_reply and (is_success or recipient.last_reply not in recipient.why):
        host = sound_host(recipient.host) or "the host there"
        lines.append(f"  This is what {host} said:" if is_success else f"  The last thing that {host} said:")
        lines += wrap(clean_sentence(recipient.last_reply).split(), "    ")
    if action is Action.FAILED:
        status = status_of(recipient)
        advice = next(text for start, text in _ADVICE if _has_subject(status, start))
        lines += wrap(advice.split(), "  ")
    return [*lines, ""]


def _has_subject(status: str, start: str) -> bool:
    return f"{status[1:]}.".startswith(f"{start}.") or not start
