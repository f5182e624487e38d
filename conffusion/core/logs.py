"""Where log records go, decided in one place: those of this package from INFO on, of other libraries only warnings."""

import logging


def log_to(*handlers: logging.Handler, level: int = logging.INFO) -> None:
    """Send the records of this process to handlers, which format them.

    The root logger stays at WARNING, so that no library (fontTools lists every font table at INFO) writes between the
    lines of this package; warnings of Python are logged as well.

    Args:
        handlers: Where records go.
        level: The lowest level of this package's own records.
    """
    logging.basicConfig(level=logging.WARNING, handlers=handlers)
    logging.getLogger("conffusion").setLevel(level)
    logging.captureWarnings(True)
