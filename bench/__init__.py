"""Measurements for docs/performance.md: `make bench`, and two programs that are run by hand."""
