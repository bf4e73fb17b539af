"""Strict configurations: a frozen dataclass from a YAML file, with `key=value` overrides."""

from __future__ import annotations

import difflib
import inspect
import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from modnas_fast.errors import ModnasError

Config = TypeVar("Config")


class ConfigError(ModnasError):
    """A configuration with an unknown key, a missing key or a value that makes no sense."""


def config_from_mapping(kind: type[Config], entries: Mapping[str, Any]) -> Config:
    """A `kind`, a frozen dataclass with fields of type str, int, float, bool or tuples of them.

    Raises:
        ConfigError: naming the unknown, missing or ill-typed key.
    """
    types = get_type_hints(kind)
    for key in entries:
        if key not in types:
            close = difflib.get_close_matches(str(key), types, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(types)}"
            raise ConfigError(f"unknown key {key!r}; {hint}")
    for entry in fields(kind):  # type: ignore[arg-type]
        if entry.default is MISSING and entry.name not in entries:
            raise ConfigError(f"{entry.name} is missing")
    try:
        return kind(**{key: _convert(key, value, types[key]) for key, value in entries.items()})
    except ModnasError as error:
        raise ConfigError(str(error)) from None


def load_config(kind: type[Config], path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply `key=value` overrides, whose values are YAML as well; `key=` is the empty text.

    Raises:
        ConfigError: unreadable file, broken YAML, or anything `config_from_mapping` refuses.
    """
    try:
        import yaml
    except ImportError:
        raise ConfigError("configurations need PyYAML: pip install 'modnas-fast[train]'") from None
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: a configuration is a mapping of keys to values")
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals:
                raise ConfigError(f"override {override!r} must read key=value")
            entries[key] = yaml.safe_load(value) if value.strip() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: broken YAML: {' '.join(str(error).split())}") from None
    try:
        return config_from_mapping(kind, entries)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def config_to_json(config: Any) -> str:
    """What `config_from_mapping` reads back, by `json.loads`."""
    return json.dumps(asdict(config), indent=2)


def describe_keys(kind: type[Any]) -> str:
    """What a configuration's docstring says of its keys, and their defaults."""
    said = textwrap.dedent(inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2])
    defaults = (
        f"{entry.name}=" + ("(needed)" if entry.default is MISSING else json.dumps(entry.default))
        for entry in fields(kind)
    )
    return f"{said}\n\nDefaults:\n" + textwrap.fill(" ".join(defaults), 110, break_on_hyphens=False)


def config_difference(one: Config, other: Config, ignore: frozenset[str]) -> list[str]:
    """Names of the fields, but for the ignored, in which two configurations of one kind differ."""
    before, after = asdict(one), asdict(other)  # type: ignore[call-overload]
    return [key for key in before if key not in ignore and before[key] != after[key]]


def require(config: Any, good: bool, key: str, rule: str) -> None:
    """Raise `ConfigError` naming `key`, its value and the rule, unless `good`."""
    if not good:
        raise ConfigError(f"{key} is {getattr(config, key)!r}; {rule}")


def _convert(key: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type; a lone value stands for a list of one, and 1e-3 (text to YAML 1.1) for a number."""
    if get_origin(kind) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_convert(key, item, get_args(kind)[0]) for item in items)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    try:
        if kind is int and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
        if kind is float and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    wanted = {str: "text", bool: "true or false"}.get(kind, f"a number ({kind.__name__})")
    raise ConfigError(f"{key} is {value!r}; it must be {wanted}")
