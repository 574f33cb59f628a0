"""The command `fastopt`."""
