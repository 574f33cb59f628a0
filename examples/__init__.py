"""Examples: each a script to run or to read, and part of the installed package as `fastopt.examples`."""
