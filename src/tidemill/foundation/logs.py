"""Logs: events with fields, on standard error, as JSON when nobody watches.

structlog is imported when the first line is written: most commands write none, and start faster.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from tidemill.foundation.settings import mask_url
from tidemill_worker.imports import import_without

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

    Logger = FilteringBoundLogger


def log(name: str) -> Logger:
    """Returns the logger of a module; it follows ``configure_logs`` whenever that is called.

    Example:
        >>> log("tidemill.serving").info("started", port=8080)
    """
    return _Logger(name)


def configure_logs(level: str = "info", format: str = "auto") -> None:  # noqa: A002 - a setting's name
    """Sends every log line to standard error, those of libraries included.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``; milder events are dropped at once.
        format: ``text``, ``json``, or ``auto``: text when standard error is a terminal.
    """
    _current.configure(logging.getLevelNamesMapping()[level.upper()], format)


def tell_trouble(tap: Callable[[str], None] | None) -> None:
    """Has each line that is a warning or worse told to somebody else too; None ends it.

    Args:
        tap: told the line as it was written, on whatever thread wrote it; it must not fail.
    """
    _current.tap = tap


class _Logger:
    """Stands for a structlog logger until it is first used."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, verb: str) -> Any:
        return getattr(_current.logger(self._name), verb)


class _Configuration:
    """How lines are written, in this process."""

    def __init__(self) -> None:
        self.threshold = logging.INFO
        self.format = "auto"
        self.tap: Callable[[str], None] | None = None
        self._made: tuple[Any, logging.Formatter] | None = None

    def configure(self, threshold: int, format_: str) -> None:
        self.threshold = threshold
        self.format = format_
        self._made = None
        root = logging.getLogger()
        if not any(isinstance(handler, _StderrHandler) for handler in root.handlers):
            root.addHandler(_StderrHandler())
        # Libraries speak at their own length: only their warnings are ours to pass on.
        root.setLevel(max(threshold, logging.WARNING))

    def logger(self, name: str) -> Any:
        return self._ready()[0].bind(module=name)

    def formatter(self) -> logging.Formatter:
        return self._ready()[1]

    def _ready(self) -> tuple[Any, logging.Formatter]:
        if self._made is None:
            self._made = _make(self.threshold, self.format)
        return self._made


def _make(threshold: int, format_: str) -> tuple[Any, logging.Formatter]:
    import_without("structlog", "rich")  # for tracebacks of a kind that is not used here
    import structlog  # noqa: PLC0415

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask_secrets,
    ]
    end = _renderers(format_)
    logger = structlog.wrap_logger(
        _Stderr(),
        processors=[*shared, *end],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        context_class=dict,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end],
    )
    return logger, formatter


def _renderers(format_: str) -> list[Processor]:
    import structlog  # noqa: PLC0415

    watched = sys.stderr.isatty()
    if format_ == "text" or (format_ == "auto" and watched):
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=watched, exception_formatter=plain)]
    # Local variables stay out of the lines: they hold data, and URLs with their passwords.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(frames),
        structlog.processors.JSONRenderer(default=str),
    ]


def _mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[key] = mask_url(value)
    return event


class _Stderr:
    """Writes each line, whole, to whatever standard error is now.

    A line that cannot be written is lost: a full disk or a closed pipe must not stop the work.
    """

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = log = msg

    def trouble(self, line: str) -> None:
        """Writes a line that is a warning or worse."""
        self.msg(line)
        if _current.tap is not None:
            _current.tap(line)

    warning = error = critical = exception = fatal = trouble


class _StderrHandler(logging.Handler):
    """Writes what libraries log as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _Stderr().trouble(_current.formatter().format(record))
        except Exception:  # noqa: BLE001 - logging must not stop the work; the handler reports it
            self.handleError(record)


_current = _Configuration()
