"""Drift: false alarms, shifts found, and speed beside Evidently."""
