"""Loops compiled by Numba from the formulas, and kept on disk."""
