"""Checkpoints: an optimizer with its parameters, and what belongs to it, in one file.

`files` has the file, `trees` how nested values stand in it, `parts` and `models` what can be saved and how it is
loaded, `changes` how everything is written at once.
"""

from .saving import load, save

__all__ = ["load", "save"]
