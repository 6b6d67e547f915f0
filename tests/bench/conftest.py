# SPDX-License-Identifier: MIT
"""Makes `import bench` work whatever the working directory (it is no part of the package); gives an open directory."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that smtp-sink's own user can reach; pytest keeps tmp_path, rightly, to ourselves."""
    with tempfile.TemporaryDirectory(prefix="smarthost-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
