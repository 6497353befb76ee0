"""Whole journeys, wired from the rooms below: train, build a table, check a model in a real server.

Recipes know which step follows which; they never decide what goes live.
"""

__all__: list[str] = []
