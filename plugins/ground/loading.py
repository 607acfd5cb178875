"""Batches of items in order of their index, prepared by other processes if so wished.

Item `index` is a function of it alone, so batches depend neither on who prepares them nor on how
many train together: each process takes its share of every pass. It does not know what items are.
"""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plugins.ground.errors import InputError

Batch = dict[str, Tensor]
Item = Callable[[int], Mapping[str, Tensor]]


class _Items(Dataset[Mapping[str, Tensor]]):
    def __init__(self, item: Item) -> None:
        self.item = item

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        return self.item(index)


class _Passes:
    """Indices of the items of each pass, made when they are needed."""

    def __init__(self, starts: range, size: int) -> None:
        self.starts, self.size = starts, size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        return ([*range(start, start + self.size)] for start in self.starts)


def batches_of(
    item: Item,
    steps: tuple[int, int],
    batch_size: int,
    accumulate: int,
    workers: int,
    place: tuple[int, int],
) -> Iterator[Batch]:
    """This process's batches of one pass after another.

    Args:
        item: an item by its index, without batch axis.
        steps: the first, and the one that is no longer done.
        batch_size: items of a step over all passes and processes.
        accumulate: passes of a step.
        workers: processes that prepare batches; 0: this one.
        place: number of this process among those that train together, and how many they are.
    """
    rank, size = place
    share = batch_size // accumulate // size
    starts = range(steps[0] * batch_size + rank * share, steps[1] * batch_size, share * size)
    loader = DataLoader(_Items(item), batch_sampler=_Passes(starts, share), num_workers=workers)
    # Begun here, since it draws from the generator that each step seeds anew.
    return _with_plain_errors(iter(loader))


def _with_plain_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """An error of a process that prepares batches comes with its traceback: take it off."""
    try:
        yield from batches
    except InputError as error:
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        last = str(error.args[0]).splitlines()[-1]  # its text as a whole is one line
        raise InputError(last.removeprefix(name)) from error
