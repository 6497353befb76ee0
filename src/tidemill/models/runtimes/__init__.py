"""One file per framework that can load a model; none of them is imported before it is needed."""

__all__: list[str] = []
