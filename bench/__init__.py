"""Benchmarks of fastopt and its peers on pytest-benchmark; see bench/README.md."""
