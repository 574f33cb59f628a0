"""Writes the formulas as source: Cython, Numba, and the single updates of `fastopt.updates`.

`setup.py` imports this package, so it imports only the standard library.
"""
