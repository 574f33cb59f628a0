"""Benchmarks of fastopt beside its peers, on pytest-benchmark; see bench/README.md."""
