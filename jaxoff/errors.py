"""Errors that a user can mend: the command line prints them as one line, without a traceback.

Their messages name the field or file, what was expected and what was found. Every other exception,
but for those of the operating system, is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add a file's name to an error of the operating system that has none, as a full disk's."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


class JaxoffError(Exception):
    """Base of the errors that a user can mend: a wrong name, setting, file or dataset."""


class InvalidSetting(JaxoffError, ValueError):
    """A setting, an option or an argument whose value cannot be used."""


class WrongType(JaxoffError, TypeError):
    """A setting whose value has a different type than its field."""


class InvalidFile(JaxoffError, ValueError):
    """A file that is damaged, or not of the kind that is expected; the message names it."""


class InvalidEpisodes(JaxoffError, ValueError):
    """Episodes break a rule that learners rely on."""


class InvalidDataset(JaxoffError, ValueError):
    """A dataset on disk is missing, damaged or of another form; the message names the file."""


class NotWritten(JaxoffError, OSError):
    """A file or folder that could not be written: the disk is full, or something is in the way."""


class AlreadyThere(JaxoffError, FileExistsError):
    """Something is at the path that is to be written, and it may not be replaced."""


class BrokenResult(JaxoffError, ValueError):
    """A file of a results folder that is missing or damaged; the message names it."""


class MissingProgram(JaxoffError, RuntimeError):
    """A program or package that is needed is not installed, or is another version."""


class JobsFailed(JaxoffError, RuntimeError):
    """Some jobs of an experiment have failed; the message names them and tells why."""


class Interrupted(RuntimeError):
    """A job was asked to stop; it saved its state, and the same command continues it.

    signals: the numbers of the signals that asked.
    """

    signals: tuple[int, ...] = ()
