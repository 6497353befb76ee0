"""Answers queries within a deadline: from a table, a cache, a model, or a stated default.

Knows what is live from a ``Deployment`` and obeys its ``ServingPlan``; never decides either.
"""

from tidemill.serving.plan import Assignment, Deployment, Live, ServingPlan

__all__ = ["Assignment", "Deployment", "Live", "ServingPlan"]
