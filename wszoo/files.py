"""Files: digests and flushing to disk."""

import hashlib
import os
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def flush_to_disk(path: Path) -> None:
    """Return once a file, or the entries of a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, mend: str) -> str:
    """The content of a file that has to be UTF-8.

    Args:
        path: The file.
        mend: The way out where it is not, for the message.

    Raises:
        ValueError: It is not.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8; {mend}") from error
