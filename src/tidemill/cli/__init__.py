"""One verb, one file: reads arguments, calls a room, shows the result; decides nothing."""

__all__: list[str] = []
