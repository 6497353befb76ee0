"""The components of training, by TFX's names, each a plain function over files and records.

A component never decides what goes live, and knows nothing of the runner that calls it.
"""

__all__: list[str] = []
