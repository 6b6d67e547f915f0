# SPDX-License-Identifier: MIT
"""Lives of a relay, drawn at random and lived on virtual time, with all that can go wrong; `python -m simulate`.

draw chooses what will happen, troubles and senders let it, history remembers what everybody saw, invariants judge it.
The relay is the real one (smarthost.testing.world). bugs plants mistakes, to see whether they would be found.
"""
