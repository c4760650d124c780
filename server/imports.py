"""Objects by import string: the one way in which this package reaches a catalog or a pipeline."""

import importlib
from typing import Any


class ImportStringError(Exception):
    """The import string names nothing; the message says which part of it."""


def opened(import_string: str) -> Any:
    """The object that ``"package.module:Name"`` names.

    Raises:
        ImportStringError: not of this form, no such module, or nothing of that name in it.
    """
    module, colon, name = import_string.partition(":")
    if not colon:
        raise ImportStringError(f"{import_string!r} is not of the form package.module:NAME")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ImportStringError(f"{import_string}: there is no module {error.name}") from error
    except AttributeError as error:
        raise ImportStringError(f"{import_string}: {error}") from error
