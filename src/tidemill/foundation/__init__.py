"""The words, the clock and the shelves that every room shares. No domain knowledge."""

__all__: list[str] = []
