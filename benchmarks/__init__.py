"""How fast, against whom, and how that grows: `make bench`, or `python -m benchmarks --help`."""
