"""Gradients of batches that are computed side by side, added up in the batches' order and held once.

`torch.autograd.grad` would hand over a whole set of them for each batch: for a base-sized encoder 440 MB each time.
Here each is added to `parameter.grad` as soon as it is known and its turn has come, and then let go.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from bothways.train.tables import Rows, Table

__all__ = ["Gradients", "gradients_in_order"]


class Gradients:
    """What `gradients_in_order` gives: each batch has its turn, in which `of` adds its gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter], tables: Sequence[Table] = (), only: bool = False) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.only = only
        self._added = [0] * len(self.parameters)  # batches that a parameter's gradient has been added up to
        self._ended: set[int] = set()
        self._first = 0  # the first batch that has not ended
        self._last = 0
        self._failed: int | None = None
        self._taken: set[int] = set()
        self._changed = threading.Condition()
        self._here = threading.local()
        self._rows: dict[Table, dict[int, list[Rows]]] = {table: defaultdict(list) for table in tables}

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Within, this thread computes batch `number` (from 0 on). Batches begin in their order, each once.

        Whatever fails within makes the turns after it fail, too.
        """
        self._here.number = self._last = number
        try:
            yield
        except BaseException:
            with self._changed:
                self._failed = number if self._failed is None else min(number, self._failed)
            raise
        finally:
            self._end(number)

    def of(
        self, output: Tensor, slope: Tensor | None = None, *, beside: Sequence[Tensor] = ()
    ) -> Sequence[Tensor | None]:
        """Add the gradients of the batch at hand: parameter by parameter, after those of the batches before it.

        output: a loss, or anything with the loss's `slope` in it.    beside: what else gradients are wanted of; they
        are given back.
        """
        if not output.requires_grad:  # nothing that it is made of learns
            return [None] * len(beside)
        found = torch.autograd.grad(output, [*self.parameters, *beside], slope, allow_unused=True)
        if self.only:
            for parameter, gradient in zip(self.parameters, found):
                parameter.grad = None if gradient is None else self._own(gradient)
        return found[len(self.parameters) :]

    def take(self, table: Table, ids: Tensor, slopes: Tensor) -> None:
        """Keep the gradients of a table's rows in the batch at hand, as they come."""
        number = getattr(self._here, "number", self._last)
        with self._changed:
            self._rows[table][number].append((ids, slopes))

    def settle(self) -> None:
        """Give each table the rows of all batches, in the batches' order."""
        for table, batches in self._rows.items():
            table.settle([one for _, some in sorted(batches.items()) for one in some])

    def add(self, index: int, gradient: Tensor | None) -> Tensor | None:
        """A parameter's gradient in the batch at hand, as torch's hooks have it; what they get back has no memory.

        On a CPU torch calls in the batch's own thread; on a GPU, where batches come one by one, in one of torch's.
        """
        if gradient is None:  # of a table, whose rows are taken
            return None
        number, parameter = getattr(self._here, "number", self._last), self.parameters[index]
        with self._changed:
            self._changed.wait_for(lambda: self._lost(number) or max(self._first, self._added[index]) >= number)
        if self._lost(number):
            raise RuntimeError("a batch before this one has failed")
        if parameter.grad is None:
            parameter.grad = self._own(gradient)
        else:
            parameter.grad.add_(gradient)
        with self._changed:
            self._added[index] = number + 1
            self._changed.notify_all()
        return gradient.new_zeros(()).expand(gradient.shape)

    def _lost(self, number: int) -> bool:
        """Whether a batch before has failed; those before it are not disturbed, so that its error is seen first."""
        return self._failed is not None and self._failed < number

    def _own(self, gradient: Tensor) -> Tensor:
        """The gradient, or a copy where its memory is another parameter's, too."""
        place = gradient.data_ptr()
        if place in self._taken or not gradient.is_contiguous():
            return gradient.clone()
        self._taken.add(place)
        return gradient

    def _end(self, number: int) -> None:
        with self._changed:
            self._ended.add(number)
            while self._first in self._ended:
                self._first += 1
            self._changed.notify_all()


@contextmanager
def gradients_in_order(
    parameters: Iterable[nn.Parameter], tables: Sequence[Table] = (), *, only: bool = False
) -> Iterator[Gradients]:
    """Until the end, gradients of these parameters go through `Gradients`; nobody else may ask for them meanwhile.

    tables: whose gradients are kept as rows.    only: there is one batch, which waits for no other.
    """
    gradients = Gradients(parameters, tables, only)
    added: Callable[[int, Tensor | None], Tensor | None] = gradients.add
    hooks = [] if only else [one.register_hook(partial(added, i)) for i, one in enumerate(gradients.parameters)]
    for table in tables:
        table.embedding.taker = partial(gradients.take, table)
    try:
        yield gradients
        gradients.settle()
    finally:
        for hook in hooks:
            hook.remove()
        for table in tables:
            table.embedding.taker = None
