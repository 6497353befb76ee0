"""Logs: events with fields, on standard error, as JSON when nobody watches."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from tidemill.foundation.settings import mask_url

Logger = FilteringBoundLogger


def log(name: str) -> Logger:
    """Returns the logger of a module; it follows ``configure_logs`` whenever that is called.

    Example:
        >>> log("tidemill.serving").info("started", port=8080)
    """
    if not structlog.is_configured():
        configure_logs()
    logger: Logger = structlog.get_logger(module=name)
    return logger


def configure_logs(level: str = "info", format: str = "auto") -> None:  # noqa: A002 - a setting's name
    """Sends every log line to standard error, those of libraries included.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``; less severe events cost nothing.
        format: ``text``, ``json``, or ``auto``: text when standard error is a terminal.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask_secrets,
    ]
    end = _renderers(format)
    structlog.configure(
        processors=[*shared, *end],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_stderr_logger,
        cache_logger_on_first_use=False,
    )
    handler = _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    # Libraries speak at their own length: only their warnings are ours to pass on.
    root.setLevel(max(threshold, logging.WARNING))


def _renderers(format_: str) -> list[Processor]:
    text = format_ == "text" or (format_ == "auto" and sys.stderr.isatty())
    if text:
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty()
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [
        structlog.processors.dict_tracebacks,
        structlog.processors.JSONRenderer(default=str),
    ]


def _mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[key] = mask_url(value)
    return event


def _stderr_logger(*_: Any) -> structlog.WriteLogger:
    return structlog.WriteLogger(sys.stderr)


class _StderrHandler(logging.Handler):
    """Writes to whatever standard error is now."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - logging must not stop the work; the handler reports it
            self.handleError(record)
