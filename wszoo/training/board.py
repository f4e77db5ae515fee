"""Event files for TensorBoard."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any


class Board:
    """Event files for TensorBoard, begun with the first value.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f"logging for TensorBoard needs it installed ({error}): pip install 'wszoo[train]'"
            ) from error
        self._open = partial(SummaryWriter, str(folder))
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    def rewind(self, step: int) -> None:
        """Hide what a killed run logged beyond ``step``; called before anything is added."""
        self._purge_step = step + 1

    def add(self, step: int, values: Mapping[str, Any], _folder: Path) -> None:
        """Log those of ``values`` that are numbers.

        Raises:
            OSError: They cannot be written; the next ones will go to a new file.
        """
        try:
            if self._writer is None:
                self._writer = self._open(purge_step=self._purge_step)
                self._purge_step = None
            for tag, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(tag, value, step)
            self._writer.flush()
        except OSError:
            self._writer = None  # its thread has ended
            raise
