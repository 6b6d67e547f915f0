# SPDX-License-Identifier: MIT
"""What the server that forks children has imported: most of what the program needs, so that a life begins soon.

Never Twisted's reactor, nor what imports it (twisted.mail): each child makes its own, as a program does.
"""

import sys

import twisted.application.internet
import twisted.cred.checkers
import twisted.internet.endpoints
import twisted.internet.epollreactor
import twisted.internet.ssl
import twisted.names.client
import twisted.protocols.tls  # noqa: F401

import smarthost.compat.calculator
import smarthost.send.verdict
import smarthost.settle.decide
import smarthost.settle.dsn  # noqa: F401

assert "twisted.internet.reactor" not in sys.modules, "children would share one epoll descriptor"
