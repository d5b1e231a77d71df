"""Evaluation: benchmarks and figures."""
