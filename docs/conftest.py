"""The examples of the pages as tests: each page runs in an empty folder, where it may write files."""

import pytest

collect_ignore_glob = ["*.py"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
