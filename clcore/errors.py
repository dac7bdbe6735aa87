"""Errors that a user can mend: each shows the value, what is allowed, and the nearest right one."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked for. The command line prints it as one line and ends with exit code 2."""


class UnknownName(UserError):  # noqa: N818 - reads as the sentence it prints
    """A name that no registry, dataclass or file knows."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Says which name is unknown, the nearest known one and all known ones.

        Args:
            kind: what was looked for, e.g. ``"method"``.
            name: what the user wrote.
            known: the valid names.
        """
        names = sorted(known)
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


class BadValue(UserError):  # noqa: N818
    """A value of the wrong type or out of its range."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        """Says which key, which value, and what is allowed.

        Args:
            key: the option or hyperparameter.
            value: what the user gave.
            allowed: the allowed values in words, e.g. ``"a number from 0 to 1"``.
        """
        super().__init__(f"{key} = {value!r} is not allowed: it must be {allowed}.")


class NewerFormat(UserError):  # noqa: N818
    """What is to be read was written by a newer clsweep; nothing is wrong with it."""


class MissingData(UserError):  # noqa: N818
    """A data set that is neither on disk nor can be downloaded."""
