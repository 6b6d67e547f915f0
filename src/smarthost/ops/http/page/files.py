# SPDX-License-Identifier: MIT
"""Style, script and mark: read once, served under names that change with what is in them, kept by browsers for ever."""

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_FOREVER = "public, max-age=31536000, immutable"
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_FILES: dict[str, tuple[bytes, str]] = {}


def _take(name: str) -> str:
    octets = (files("smarthost.ops.http") / "static" / name).read_bytes()
    stem, _, suffix = name.rpartition(".")
    served = f"{stem}.{hashlib.sha256(octets).hexdigest()[:16]}.{suffix}"
    _FILES[served] = octets, _TYPES[suffix]
    return f"/static/{served}"


STYLE = _take("page.css")
SCRIPT = _take("page.js")
MARK = _take("mark.svg")


async def give_file(request: Request) -> Response:
    """Give one of them; there are no others."""
    found = _FILES.get(str(request.path_params["name"]))
    if found is None:
        return Response(status_code=404)
    octets, media = found
    return Response(octets, media_type=media, headers={"cache-control": _FOREVER})
