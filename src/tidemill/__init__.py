"""Tidemill: trains, validates, serves and retrains models, and says why."""

__version__ = "0.1.0"
