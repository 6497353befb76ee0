"""Models as files: their format, runtimes, compilation and registry; nothing of data, training
or serving lives here.
"""

from tidemill.models.signature import Batch, Column, Signature

__all__ = ["Batch", "Column", "Signature"]
