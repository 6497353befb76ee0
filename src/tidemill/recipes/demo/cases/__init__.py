"""Six classic cases, each of which is best served in another way, made from a seed and measured."""

__all__: list[str] = []
