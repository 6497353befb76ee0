"""What runs inside a model's own environment: the standard library, NumPy and msgspec, no Tidemill."""

__all__: list[str] = []
