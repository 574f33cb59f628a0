"""Definitions of the optimizers: which formula each runs, with which hyperparameters, under which conventions."""
