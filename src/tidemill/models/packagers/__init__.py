"""One file per framework that models are packaged from; none is imported before it is needed."""

__all__: list[str] = []
