"""Measures the service as it is: real processes, default durability. See docs/explanation/performance.md."""
