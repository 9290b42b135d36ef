"""Which rows of each batch a process of a run reads; needs nothing but Python."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One of `count` equal parts of each batch, of which each process of a run reads its own.

    Attributes:
        index: counted from 0.
    """

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> slice:
        """Returns the rows of this part in a batch, whose size `count` divides."""
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Part()
