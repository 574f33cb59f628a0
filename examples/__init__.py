"""Example scripts. They are also installed, as the package `fastopt.examples`."""
