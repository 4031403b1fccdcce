"""Dagster's view of the artifacts: assets, checks, partitions, resources."""
