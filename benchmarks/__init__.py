"""Scripts that measure what docs/benchmarks.md and docs/reliability.md claim."""
