"""Checks of a model's shapes, which raise `ConfigError` with the field at fault."""

from __future__ import annotations

from perfmodel.errors import ConfigError


def require(condition: bool, field: str, problem: str) -> None:
    """Raise a `ConfigError` about `field` unless `condition` holds."""
    if not condition:
        raise ConfigError(problem, field=field)


def require_counts(owner: object, minimum: int, *fields: str) -> None:
    """Raise a `ConfigError` unless each of `owner`'s `fields` is an integer from `minimum`."""
    for field in fields:
        value = getattr(owner, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigError(f"expected an integer from {minimum}, got {value!r}", field=field)
