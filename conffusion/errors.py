"""Exceptions raised on bad input; every message names the file, key or value and the remedy."""


class ConffusionError(Exception):
    """Base class of all errors that a user can fix."""


class ConfigError(ConffusionError, ValueError):
    """A configuration key is unknown, missing, of the wrong type or out of range."""


class DataError(ConffusionError):
    """An image, mask, folder or split is missing, corrupt or unsuitable."""


class ShapeError(ConffusionError, ValueError):
    """Arrays have shapes that do not belong together."""


class StoreError(ConffusionError):
    """A result store is missing, truncated, incomplete or does not match its manifest."""


class CheckpointError(ConffusionError):
    """A weights file is unreadable, unsafe or belongs to another architecture."""


class CalibrationError(ConffusionError):
    """No scale satisfies the requested risk and error levels."""


class PackageError(ConffusionError):
    """A package is unreadable, damaged, unsafe, or not made for what is asked of it."""


class ExportError(ConffusionError):
    """A model cannot be exported as asked, or what that needs is not installed."""
