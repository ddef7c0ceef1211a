"""What a user can be told went wrong: bad input, and bad configuration files.

Everything here is meant to be printed as it is, without a traceback; a command
catches `InputError`, prints it and exits non-zero.
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from a user; the message is complete and printable without a traceback."""


class ConfigError(InputError):
    """A file, or one field of it, does not say what it must.

    Args:
        problem: what was found and what was expected, e.g. `"expected an integer from 1, got 0"`.
        source: the file (with `:line` or `:line:column` where known); empty if the data
            came from no file.
        field: the field's path within it, dotted; empty if the whole file is at fault.
    """

    def __init__(self, problem: str, *, source: str = "", field: str = "") -> None:
        """Join the parts into one printable message."""
        self.problem = problem
        self.source = source
        self.field = field
        super().__init__(": ".join(part for part in (source, field, problem) if part))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the parts apart on the way out of a worker process."""
        return _rebuild, (type(self), self.problem, self.source, self.field)

    def in_source(self, source: str) -> ConfigError:
        """The same error, naming `source` if it named none yet."""
        if self.source:
            return self
        return type(self)(self.problem, source=source, field=self.field)


def _rebuild(cls: type[ConfigError], problem: str, source: str, field: str) -> ConfigError:
    return cls(problem, source=source, field=field)
