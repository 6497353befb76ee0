"""The main job on real data, driven as a user would: by the command line and over HTTP."""

__all__: list[str] = []
