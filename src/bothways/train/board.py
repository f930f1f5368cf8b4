"""What TensorBoard shows of a run (extra `tensorboard`): the same numbers as the log, and the speed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bothways.errors import MissingExtraError
from bothways.train.loop import Event
from bothways.train.meter import Reading
from bothways.train.report import with_ratios

__all__ = ["Board", "check_board"]

FOLDER = "tensorboard"


def check_board() -> None:
    """Raises MissingExtraError, with the line that installs it, where there is no TensorBoard."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError('tensorboard = true needs TensorBoard: pip install "bothways[tensorboard]"')


class Board:
    """Event files in the run's folder `tensorboard`: a point each `every` steps and for each evaluation.

    step: of the checkpoint that the run goes on from; TensorBoard forgets what it read of later steps, since those
    will be written again.
    """

    def __init__(self, output: Path, every: int, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._every = every
        self._writer = SummaryWriter(str(output / FOLDER), purge_step=step + 1)

    def add(self, event: Event, reading: Reading | None) -> None:
        """Write what is due of a step or an evaluation, and have it on disk."""
        due = event.means is not None or (event.result is not None and event.progress.step % self._every == 0)
        if due:
            for name, value in _points(event, reading):
                self._writer.add_scalar(name, value, event.progress.step)
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _points(event: Event, reading: Reading | None) -> Iterator[tuple[str, float]]:
    if event.means is not None:
        yield from ((f"held out/{name}", value) for name, value in with_ratios(event.means).items())
    elif event.result is not None:
        yield from ((f"training/{name}", value) for name, value in with_ratios(event.result.means).items())
        yield from (("training/loss", event.result.loss), ("training/gradient", event.result.gradient))
        yield "training/learning rate", event.lr
        if reading is not None:
            yield "speed/tokens a second", reading.tokens_per_second
            yield "speed/share of the matrix rate", reading.share
