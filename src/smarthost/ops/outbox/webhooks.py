# SPDX-License-Identifier: MIT
"""Posts records to an HTTP receiver, signed as Standard Webhooks has it (webhook-id, -timestamp, -signature).

One request at a time, with a deadline over all of it; of an answer a few KiB are read. Redirects are not followed: who
may be told where mail goes is the operator's choice, not a receiver's. The URL is the operator's too, so it may be of
any network; proxies of the environment are not asked. 2xx delivers, 410 stops for good, all else is tried again.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from smarthost.config import WebhookSection
from smarthost.mail.errors import ConfigError
from smarthost.mail.record import Record
from smarthost.ops.outbox.carrier import Undelivered
from smarthost.ops.outbox.lines import cursor_of, to_line

BODY_OCTETS = 1 << 20  # what common receivers take
ANSWER_OCTETS = 4096  # of an answer, for the evidence
RETRY_AFTER_S = 300.0
_SECRET_PREFIX = "whsec_"  # noqa: S105 - the form of one
_EVIDENCE_CHARACTERS = 120


class Webhook:
    """One receiver. Raises: ConfigError: the secret, the CAs, or httpx2 itself cannot be had."""

    def __init__(
        self, section: WebhookSection, *, hostname: str, version: str, now: Callable[[], float] = time.time
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise ConfigError("webhooks need httpx2: pip install 'smarthost[http]'", key="webhook") from error
        self._httpx = httpx2
        self._section = section
        self._hostname = hostname
        self._version = version
        self._now = now
        self._most = section.batch
        self._secrets = read_secrets(section.secret_file)
        self._tls = _contexts(section.ca_file) if section.url.startswith("https:") else None
        self._client: Any = None  # httpx2.AsyncClient

    async def deliver(self, records: Sequence[Record]) -> int:
        """Post as many of the first of them as one request may hold. Raises: Undelivered."""
        count, body = to_body(records[: self._most], self._hostname)
        headers = self._headers(records[0].seq, records[count - 1].seq, body)
        try:
            async with asyncio.timeout(self._section.timeout_s):
                status, retry_after, said = await self._post(body, headers)
        except TimeoutError:
            await self._forget_client()
            raise Undelivered(f"no answer within {self._section.timeout_s:g} s") from None
        except (self._httpx.HTTPError, self._httpx.InvalidURL, OSError) as error:
            await self._forget_client()
            raise Undelivered(f"{type(error).__name__}: {error}") from error
        if 200 <= status < 300:
            self._most = min(2 * self._most, self._section.batch)
            return count
        if status == 413:  # RFC 9110 15.5.14: content too large
            self._most = max(1, count // 2)
        told = f"HTTP {status}{f': {said}' if said else ''}"
        if 300 <= status < 400:
            told += " (redirects are not followed: set url to where it is)"
        raise Undelivered(told, is_gone=status == 410, retry_after_s=_read_retry_after(retry_after, self._now()))

    async def close(self) -> None:
        """Close the connection."""
        await self._forget_client()

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str, str]:
        if self._client is None:
            self._client = self._httpx.AsyncClient(
                verify=self._tls if self._tls is not None else True,
                trust_env=False,
                follow_redirects=False,
                timeout=None,  # ours is over all of it
                limits=self._httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30.0),
            )
        async with self._client.stream("POST", self._section.url, content=body, headers=headers) as answer:
            said = b""
            async for chunk in answer.aiter_raw():  # not decoded: a bomb stays small
                said += chunk[: ANSWER_OCTETS - len(said)]
                if len(said) >= ANSWER_OCTETS:
                    break
            evidence = " ".join(said[:_EVIDENCE_CHARACTERS].decode("utf-8", "replace").split())
            return answer.status_code, answer.headers.get("retry-after", ""), evidence

    def _headers(self, first: int, last: int, body: bytes) -> dict[str, str]:
        self._secrets = _reread(self._section.secret_file, self._secrets)
        id = f"rec_{cursor_of(first)}_{cursor_of(last)}"
        timestamp = str(int(self._now()))
        return {
            "content-type": "application/json",
            "user-agent": f"smarthost/{self._version}",
            "webhook-id": id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join([sign(secret, id, timestamp, body) for secret in self._secrets]),
        }

    async def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(1.0):
                    await client.aclose()
            except (TimeoutError, OSError, self._httpx.HTTPError):
                pass  # it is gone either way


def to_body(records: Sequence[Record], hostname: str) -> tuple[int, bytes]:
    """Give how many of the first records fit into one body, at least one, and that body."""
    lines: list[bytes] = []
    octets = 0
    for record in records:
        line = to_line(record)
        octets += len(line) + 1
        if lines and octets > BODY_OCTETS:
            break
        lines.append(line)
    head = msgspec.json.encode({"hostname": hostname, "cursor": cursor_of(records[len(lines) - 1].seq)})
    return len(lines), head[:-1] + b',"events":[' + b",".join(lines) + b"]}"


def sign(secret: bytes, id: str, timestamp: str, body: bytes) -> str:
    """Give "v1," and the base64 of HMAC-SHA256 over "id.timestamp.body"."""
    signed = hmac.new(secret, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def read_secrets(file: Path) -> tuple[bytes, ...]:
    """Read one secret a line; "whsec_" and base64 is what that decodes to. Raises: ConfigError: names the file."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
        secrets = tuple([_decode_secret(line) for line in lines])
    except OSError as error:
        raise ConfigError(f"cannot be read: {file}: {error.strerror}", key="webhook.secret_file") from error
    except ValueError:  # and never its text: that would show the secret
        raise ConfigError(f"{file}: after whsec_ comes base64", key="webhook.secret_file") from None
    if not secrets:
        raise ConfigError(f"{file} is empty: expected a line with the secret", key="webhook.secret_file")
    return secrets


def _decode_secret(line: str) -> bytes:
    if not line.startswith(_SECRET_PREFIX):
        return line.encode()
    try:
        return base64.b64decode(line.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _reread(file: Path, known: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Take up a changed secret; while the file cannot be read the known ones hold."""
    try:
        return read_secrets(file)
    except ConfigError:
        return known


def _contexts(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"no certificates can be read: {ca_file}: {error}", key="webhook.ca_file") from error


def _read_retry_after(text: str, now: float) -> float:
    """Give how long the receiver asks us to wait (RFC 9110 10.2.3), within bounds; what is neither form: 0."""
    text = text.strip()[:64]
    if text.isascii() and text.isdecimal():
        seconds = float(int(text))
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_S)


def name_of(url: str) -> str:
    """Give a name for logs and metrics: the host, and enough to tell two URLs apart, but nothing that may be secret."""
    return f"webhook:{urlsplit(url).hostname}:{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def target_of(url: str) -> str:
    """Give the URL without its path and query, where receivers like to keep their keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{'...' if parts.path.strip('/') or parts.query else ''}"
