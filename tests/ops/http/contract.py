# SPDX-License-Identifier: MIT
"""Holds an answer to what the OpenAPI document says of it."""

import re
from typing import Any

import httpx2 as httpx
from openapi_schema_validator import OAS31Validator

from smarthost.ops.http.openapi import document

DOCUMENT = document("0")


def check(answer: httpx.Response) -> httpx.Response:
    """Fail unless status, media type and body are as documented for this operation; gives the answer."""
    path = answer.request.url.raw_path.decode().partition("?")[0]
    operation = _find(path)[answer.request.method.lower()]
    documented = operation["responses"]
    assert str(answer.status_code) in documented, (answer.status_code, answer.text)
    media = answer.headers["content-type"].partition(";")[0]
    content = documented[str(answer.status_code)]["content"]
    assert media in content, (media, answer.text)
    if media.endswith("json"):
        schema = {**content[media]["schema"], "components": DOCUMENT["components"]}
        OAS31Validator(schema).validate(answer.json())
    return answer


def _find(path: str) -> dict[str, Any]:
    literal_first = sorted(DOCUMENT["paths"], key=lambda each: each.count("{"))
    for template in literal_first:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            found: dict[str, Any] = DOCUMENT["paths"][template]
            return found
    raise AssertionError(f"{path} is in no documented path")
