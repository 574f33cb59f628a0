"""How kernels are launched: blocks, threads, and the part of an array that one block handles."""

from __future__ import annotations

from dataclasses import dataclass

from .availability import is_simulated
from .words import machine


@dataclass(frozen=True)
class LaunchShape:
    """Numbers of threads, blocks and elements for launches.

    Attributes
    ----------
    threads: threads of a block, a multiple of 64 on a device.
    chunk: the most elements that a block updates before it takes the next chunk; a multiple of 4.
    blocks_per_multiprocessor: blocks of the kernels that read all gradients; the update kernel has a block per chunk.
    most_blocks: the largest number of blocks of the update kernel.
    """

    threads: int = 256
    chunk: int = 8192
    blocks_per_multiprocessor: int = 8
    most_blocks: int = 1 << 20

    def chunk_for(self, size: int) -> int:
        """The length of chunks: shorter if there are few elements, so that every multiprocessor gets some."""
        wanted: int = size // (machine.multiprocessors() * self.blocks_per_multiprocessor)
        least = 4 * self.threads
        return max(least, min(self.chunk, -(-wanted // least) * least))


LAUNCH_SHAPE = LaunchShape(threads=4, chunk=64, blocks_per_multiprocessor=2) if is_simulated() else LaunchShape()
"""The simulator runs each CUDA thread as a Python thread: it uses few threads, and short chunks so that every loop of a
kernel runs."""
