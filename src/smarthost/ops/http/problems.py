# SPDX-License-Identifier: MIT
"""Why a request is not carried out, as RFC 9457 has it: each kind with its status, and what to do about it.

Our own errors are translated here and nowhere else. A problem never has more of a stranger's text than it needs, and
never a token.
"""

from collections.abc import Mapping

from msgspec import Struct

from smarthost.mail.errors import NoNewMail, StoreBusy, StoreError, StoreFull, SubmissionRefused

MEDIA_TYPE = "application/problem+json"
BASE = "/api/v1/problems/"
_DETAIL_CHARACTERS = 2000


class Kind(Struct, frozen=True):
    """A kind of problem: `cure` is for whoever reads its page."""

    status: int
    title: str
    cure: str


KINDS: Mapping[str, Kind] = {
    "invalid": Kind(400, "The request is not understood", "Compare it with /api/v1/openapi.json."),
    "unauthorized": Kind(401, "A token is needed", "Send Authorization: Bearer TOKEN; smarthost tokens add makes one."),
    "forbidden": Kind(403, "The token may not do that", "Use a token with the scope that the detail names."),
    "content-hidden": Kind(403, "Content is not shown", "Set show_content = true in [http] and restart."),
    "not-found": Kind(404, "There is no such thing", "It may have ended, and its records may be past records.keep."),
    "method": Kind(405, "The method is not offered here", "The header Allow says which are."),
    "in-progress": Kind(409, "The first request with this key is still under way", "Repeat it a second later."),
    "key-reused": Kind(409, "The Idempotency-Key was used for another request", "Use a new key for each message."),
    "too-large": Kind(413, "The request is too large", "limits.message_size says how large a message may be."),
    "media-type": Kind(415, "The content is of a kind not taken here", "Send application/json, or message/rfc822."),
    "refused": Kind(422, "The relay refuses it", "The reply says why, as an SMTP client would have read it."),
    "unusable": Kind(422, "A value cannot be used", "The detail names it."),
    "too-many": Kind(429, "Too many requests", "Wait as long as Retry-After says."),
    "failed": Kind(500, "The request failed by a bug of ours", "The log tells more: please report it."),
    "unavailable": Kind(503, "It cannot be done now", "Nothing is lost: repeat it later."),
    "deadline": Kind(504, "It took too long", "Ask for less at a time, or again later."),
}


class ProblemBody(Struct, frozen=True, omit_defaults=True):
    """What is answered: RFC 9457 3.1, and for "refused" the SMTP `reply`."""

    type: str
    title: str
    status: int
    detail: str = ""
    reply: str = ""


class Problem(Exception):
    """A request is not carried out. `headers` go with the answer."""

    def __init__(self, kind: str, detail: str = "", *, reply: str = "", headers: Mapping[str, str] = {}) -> None:
        super().__init__(detail)
        self.kind = KINDS[kind]
        self.body = ProblemBody(BASE + kind, self.kind.title, self.kind.status, detail[:_DETAIL_CHARACTERS], reply)
        self.headers = dict(headers)


def translate(error: Exception) -> Problem | None:
    """Give the problem that an error of ours is to whoever asked; None: it is a bug."""
    match error:
        case Problem():
            return error
        case SubmissionRefused():
            reply = error.reply
            said = f"{reply.code} {reply.enhanced} {'; '.join(reply.lines)}"
            if reply.is_temporary:
                return Problem("unavailable", said, reply=said, headers={"retry-after": "60"})
            return Problem("too-large" if reply.code == 552 else "refused", said, reply=said)
        case StoreFull() | StoreBusy() | NoNewMail():
            return Problem("unavailable", str(error), headers={"retry-after": "60"})
        case StoreError():
            return Problem("unavailable", f"the store cannot do that now: {error}", headers={"retry-after": "5"})
        case TimeoutError():
            return Problem("deadline", headers={"retry-after": "5"})
        case ValueError():
            return Problem("unusable", str(error))
    return None
