"""Compiles loops from the formulas with Numba, and keeps them on disk."""
