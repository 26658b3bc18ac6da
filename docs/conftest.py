"""The pages' examples as tests: each page runs in a folder of its own, where it may write files."""

import pytest

collect_ignore_glob = ["*.py"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
