# SPDX-License-Identifier: MIT
"""What an operator touches: the command line, the control socket, logs, the demo."""
