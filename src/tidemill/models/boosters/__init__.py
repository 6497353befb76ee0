"""What boosters save, read and checked before a native library sees it, and written as graphs."""

__all__: list[str] = []
