"""The code location: what ``workspace.yaml`` loads."""

from pipelines.build import build_definitions

__all__ = ["build_definitions", "defs"]

defs = build_definitions()
