"""Makes the files beside the suites importable, and lets peers warn: their warnings are not ours."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep warnings of peers from failing a benchmark."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default"))
