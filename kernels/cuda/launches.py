"""How kernels are launched: blocks, threads, and how much of an array is one block's."""

from __future__ import annotations

from dataclasses import dataclass

from .availability import is_simulated
from .words import machine


@dataclass(frozen=True)
class LaunchShape:
    """How kernels are launched.

    Attributes
    ----------
    threads: threads of a block, a multiple of 64 on a device.
    chunk: elements that a block updates before it takes the next, at most; a multiple of 4.
    blocks_per_multiprocessor: of the kernels that read all gradients; that of the update has one for each chunk.
    most_blocks: of the update kernel.
    """

    threads: int = 256
    chunk: int = 8192
    blocks_per_multiprocessor: int = 8
    most_blocks: int = 1 << 20

    def chunk_for(self, size: int) -> int:
        """A shorter chunk where there are few elements, so that every multiprocessor has some."""
        wanted: int = size // (machine.multiprocessors() * self.blocks_per_multiprocessor)
        least = 4 * self.threads
        return max(least, min(self.chunk, -(-wanted // least) * least))


LAUNCH_SHAPE = LaunchShape(threads=4, chunk=64, blocks_per_multiprocessor=2) if is_simulated() else LaunchShape()
"""In the simulator every thread is one of Python's: few, and short chunks, so that everything is walked over."""
