"""Measurements beside ``dagster_pipes``: ``python -m benchmarks --help``."""
