# SPDX-License-Identifier: MIT
"""All parsers that are fed with what strangers, hosts, operators or files say."""

from collections.abc import Mapping
from types import MappingProxyType

from tests.fuzz import content, smtp_client_side, smtp_server_side, world
from tests.fuzz.inputs import Target

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (*smtp_server_side.TARGETS, *smtp_client_side.TARGETS, *content.TARGETS, *world.TARGETS)
    }
)
