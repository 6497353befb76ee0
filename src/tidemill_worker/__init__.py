"""What runs inside a model's own environment: standard library, NumPy, msgspec, no Tidemill."""

__all__: list[str] = []
