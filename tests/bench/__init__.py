"""Benchmarks; see `python -m tests.bench --help`."""
