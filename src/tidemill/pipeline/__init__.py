"""Steps, their graph, and a runner that never does twice what it has done; no ML, no numpy."""

from tidemill.pipeline.step import Handle, Output, Pipeline, SourceFile, Step

__all__ = ["Handle", "Output", "Pipeline", "SourceFile", "Step"]
