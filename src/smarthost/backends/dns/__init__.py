# SPDX-License-Identifier: MIT
"""DNS for real: DnsResolver (ports.Resolver), and LocalNames for what the operator configures. dnspython lives here."""

from smarthost.backends.dns.names import LocalNames, ResolvConf, read_hosts, read_resolv_conf
from smarthost.backends.dns.resolver import DnsResolver

__all__ = ["DnsResolver", "LocalNames", "ResolvConf", "read_hosts", "read_resolv_conf"]
