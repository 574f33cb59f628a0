"""The step in plain Python, and the formulas run by NumPy: the reference for every other backend."""
