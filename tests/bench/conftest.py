# SPDX-License-Identifier: MIT
"""Makes `import bench` work whatever the working directory: the benchmark is no part of the installed package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
