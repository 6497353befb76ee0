"""Models that ``tidemill_worker`` opens: here they answer as in an environment of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tidemill.foundation import errors
from tidemill.foundation.errors import ModelFailed, TidemillError
from tidemill.models.signature import Batch, Signature
from tidemill_worker.functions import FunctionError


class PortableModel(Protocol):
    """A model of ``tidemill_worker``; safe to share between threads."""

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each."""

    def close(self) -> None:
        """Gives its memory back; closing twice does nothing."""


class PortableRuntime:
    """Such a model, whose errors are Tidemill's own.

    Args:
        model: opened.
        signature: what it takes and gives.
    """

    def __init__(self, model: PortableModel, signature: Signature) -> None:
        self._model = model
        self._signature = signature

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self._signature

    def predict(self, batch: Batch) -> Batch:
        """Returns the outputs, (n, *shape) each."""
        with our_errors():
            return self._model.predict(batch)

    def close(self) -> None:
        """Gives the model back once no call uses it."""
        self._model.close()


@contextmanager
def our_errors() -> Iterator[None]:
    """Makes an error of ``tidemill_worker`` the one of Tidemill's that has its name."""
    try:
        yield
    except FunctionError as error:
        raise refusal(type(error).__name__, error.what, error.remedy) from error


def refusal(kind: str, what: str, remedy: str) -> TidemillError:
    """Returns the error of a name; ``ModelFailed`` if none is called so."""
    found = getattr(errors, kind, None)
    if not (isinstance(found, type) and issubclass(found, TidemillError)):
        found = ModelFailed
    return found(what, remedy=remedy)
