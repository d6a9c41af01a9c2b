"""Benchmarks: every figure of docs/benchmarks.md has its command here; results are kept as data in results/."""
