"""What SPECIFICATION.md promises, measured: `make bench`, or `python -m benchmarks`."""
