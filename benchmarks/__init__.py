"""Measurements behind the claims in docs/benchmarks.md; each script says what it measures."""
