"""Errors that a user can act on: one sentence naming the thing, the value and the remedy."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 40
"""Names listed at most where one is unknown: a dataset has thousands of clients."""


class UserError(Exception):
    """Something the user gave is wrong or missing; the command line prints it and exits with code 2."""

    exit_code = 2


class DataError(UserError):
    """Raw or prepared data is missing, damaged or unsafe."""


class ConfigError(UserError):
    """A suite, an option or a name is wrong."""


class StaleError(UserError):
    """What is there was made by other code, or from other data, than what is there now."""


class SystemRefuses(UserError):
    """The machine cannot read or write what it has to: a full disk, a folder of someone else's."""


_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT): "free some space there",
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT): (
        "give a folder that you may write to (--results; METALEAF_DATA for data)"
    ),
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR): "move away what is in the place of a file or folder of ours",
    (errno.EMFILE, errno.ENFILE): "raise the limit of open files (ulimit -n), or use fewer workers",
}


def of_system(error: OSError) -> SystemRefuses:
    """An error of the operating system as the one sentence that it is shown as."""
    remedy = next((remedy for numbers, remedy in _REMEDIES.items() if error.errno in numbers), "see to it")
    what = f"{error.filename or 'input or output'}: {error.strerror or error}"
    return SystemRefuses(f"{what}: {remedy}. Finished runs are kept, the same command goes on from here.")


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest names that do."""
    options = sorted(known)
    cased = {option.lower(): option for option in options}
    near = [cased[match] for match in get_close_matches(name.lower(), cased, n=3, cutoff=0.5)]
    shown, left = options[:LISTED], len(options) - LISTED
    some = f"{', '.join(shown)}{f' and {left:,} more' if left > 0 else ''}"
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {some}."
    return ConfigError(f"unknown {kind} {name!r}: {hint}")


def refuse_unknown(kind: str, chosen: Iterable[object], known: Iterable[object]) -> None:
    """Raise ConfigError for the first of those chosen that does not exist."""
    options = list(known)
    for one in chosen:
        if one not in options:
            raise unknown(kind, str(one), [str(option) for option in options])
