# SPDX-License-Identifier: MIT
"""How a child process of ours begins, and how frames are cut that go to and fro. Imported by both sides: keep it small.

A child imports what it needs of smarthost without running smarthost/__init__.py, which gives embedders the whole relay:
the store's needs 5 modules of it, and 19 MiB.
"""

import json
import struct
import sys
from pathlib import Path

LENGTH = struct.Struct("<I")  # before each frame: its octets

_PACKAGE = Path(__file__).parents[1]
_BOOT = """\
import sys, types, json, importlib
sys.path[:] = json.loads(sys.argv[1])
package = types.ModuleType("smarthost")
package.__path__ = json.loads(sys.argv[2])
sys.modules["smarthost"] = package
importlib.import_module(sys.argv[3]).main()
"""


def child_command(module: str, argument: str) -> list[str]:
    """Give the command line that runs `main` of a module of ours; it finds `argument` at the end of sys.argv."""
    paths = (json.dumps(sys.path), json.dumps([str(_PACKAGE)]))
    return [sys.executable, "-I", "-S", "-c", _BOOT, *paths, module, argument]
