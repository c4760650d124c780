"""How log lines look: structlog, for people on a console or as JSON; the standard library's lines, too."""

import logging
import sys
from functools import partial
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor

from server.settings import Settings

Process = Literal["server", "http", "worker"]
"""The parent of all, which also sends webhooks; the one that answers; one that makes pictures."""

OURS = ("server", "pipelines", "weights", "__main__")


def configure_logs(settings: Settings, process: Process) -> None:
    """Send every logger of this process to standard error, in the settings' format and from its level on.

    Each line has a timestamp, a level and the `process`; a `request_id` wherever a request is concerned. Other people's
    libraries are silent below a warning: at their DEBUG they tell headers, statements and pieces of pictures.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        partial(signed, process),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=endings(settings.log_format))
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[settings.log_level]))
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level)


def signed(process: Process, _logger: object, _method: str, line: EventDict) -> EventDict:
    return {**line, "process": process}


def endings(log_format: str) -> list[Processor]:
    """The last steps of a line. Tracebacks show code, never the values of variables: those may be prompts."""
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log_format == "json":
        return [strip, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [strip, renderer]
