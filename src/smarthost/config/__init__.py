# SPDX-License-Identifier: MIT
"""Text -> frozen Config; every error names its key, and its line where known.

`parse_config` for embedders and assemble, `read_config_file` for commands: TOML, flags over it, what the machine says
beneath it. A key that keys.py does not list is an error; a test holds docs/configuration.md to that list.
"""

from smarthost.config.file import DEFAULT_FILE, find_state_dir, read_config_file
from smarthost.config.read import accept, parse_config, read_config
from smarthost.config.show import config_json, config_toml
from smarthost.config.surroundings import Surroundings, default_state_dir
from smarthost.config.values import (
    AuthSection,
    BareNewline,
    Config,
    DkimSection,
    DnsSection,
    Endpoint,
    EventsSection,
    HostsSection,
    HttpSection,
    LimitsSection,
    ListenerSection,
    ListenerTls,
    LogSection,
    MaildropSection,
    Mode,
    MxSection,
    Network,
    NetworkSection,
    NextHopSection,
    Protocol,
    Reading,
    RetrySection,
    RouteSection,
    TlsSection,
    WebhookSection,
)

__all__ = [
    "DEFAULT_FILE",
    "AuthSection",
    "BareNewline",
    "Config",
    "DkimSection",
    "DnsSection",
    "Endpoint",
    "EventsSection",
    "HostsSection",
    "HttpSection",
    "LimitsSection",
    "ListenerSection",
    "ListenerTls",
    "LogSection",
    "MaildropSection",
    "Mode",
    "MxSection",
    "Network",
    "NetworkSection",
    "NextHopSection",
    "Protocol",
    "Reading",
    "RetrySection",
    "RouteSection",
    "Surroundings",
    "TlsSection",
    "WebhookSection",
    "accept",
    "config_json",
    "config_toml",
    "default_state_dir",
    "find_state_dir",
    "parse_config",
    "read_config",
    "read_config_file",
]
