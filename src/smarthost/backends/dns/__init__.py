# SPDX-License-Identifier: MIT
"""DNS for real: DnsResolver (ports.Resolver), LocalNames for what the operator configures, and what the system says."""

from smarthost.backends.dns.names import LocalNames, ResolvConf, SystemServers, read_hosts, read_resolv_conf
from smarthost.backends.dns.resolver import DnsResolver

__all__ = ["DnsResolver", "LocalNames", "ResolvConf", "SystemServers", "read_hosts", "read_resolv_conf"]
