# SPDX-License-Identifier: MIT
"""Twisted's classic managed relay, working: `relaymanager` and `relay` under the names and signatures they had there.

For programs written for `twisted.mail.relaymanager` and `twisted.mail.relay`: change the imports (extra `twisted`). A
second driver over the relay's own core: route.mx and route.health decide about exchangers, queue.schedule about time,
settle.dsn writes the reports. Nothing else of smarthost imports this package, or Twisted (a contract says so).
"""
