"""Files on disk: only regular ones are read, and they are replaced atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["check_regular", "check_replaceable", "in_place_of", "remove_leftovers", "replacing"]


def check_regular(path: str | os.PathLike[str]) -> int | None:
    """The mode of a regular file; None if there is no file.

    Raises OSError for a folder, a FIFO or a device: reading may wait forever or have no end, and writing
    would replace it.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, no regular file", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no regular file, but a device or a pipe", os.fspath(path))
    return mode


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A temporary file to write, which replaces `path` atomically when complete.

    Raises OSError if it can't be written, or `path` exists and is no regular file.
    """
    path = Path(os.path.realpath(path))  # write through a symbolic link
    mode = _mode_of_writable(path)
    with _temporary(path) as (file, temporary):
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:  # Windows can't rename an open file
            file.close()
        os.replace(temporary, path)
    with contextlib.suppress(OSError):  # not every system or file system can flush a folder
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise the OSError that `replacing` would; nothing is changed."""
    path = Path(os.path.realpath(path))
    _mode_of_writable(path)
    with _temporary(path):
        pass


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path`, which is renamed to `path` at the end."""
    temporary = _temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files beside `path` of processes that were killed in `replacing`.

    A process holds a lock on its temporary file until the file is renamed, and the system releases
    the locks of a process that ends, however it ends. So a file that can be locked is a leftover. A
    process number in the name would not do: it may be another process by now, or of another machine.
    Windows has no such locks, and removes no open file.
    """
    path = Path(os.path.realpath(path))
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.part")
    entries: list[str] = []
    with contextlib.suppress(OSError):  # a folder that may not be listed
        entries = os.listdir(path.parent)
    for found in (path.parent / entry for entry in entries if name.fullmatch(entry)):
        # locked by another process, or on a file system without locks
        with contextlib.suppress(OSError):
            if fcntl is None:
                found.unlink()
                continue
            check_regular(found)
            with open(found, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.unlink()


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new, locked file beside `path`, removed at the end unless it was renamed."""
    temporary = _temporary_name(path)
    try:
        with _new(temporary, path) as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # no locks on this file system
                    fcntl.flock(file, fcntl.LOCK_EX)
            if temporary.exists():
                yield file, temporary
                return
    finally:
        temporary.unlink(missing_ok=True)
    # another process has removed it as a leftover before it was locked
    with _temporary(path) as another:
        yield another


def _new(temporary: Path, path: Path) -> BinaryIO:
    """A new file; errors name `path` in place of `temporary`."""
    try:
        return open(temporary, "xb")
    except OSError as error:
        if not path.parent.exists():
            raise FileNotFoundError(errno.ENOENT, "no such folder", os.fspath(path.parent)) from None
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None


def _temporary_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")


def _mode_of_writable(path: Path) -> int | None:
    mode = check_regular(path)
    if mode is not None and not os.access(path, os.W_OK):  # which os.replace does not check
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return mode
