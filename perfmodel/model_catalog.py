"""The models shipped with the project, and finding a model by name or path.

`data/models/` holds one Hugging Face configuration per model (of a synthetic one, its recipe)
and `catalog.json`, which gives each its names and its size with the source of that figure. To
add a model without touching the package, give the path of its configuration, or put it in a
folder on the search path.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from perfmodel.config_fields import Fields, read_json
from perfmodel.documents import read_yaml
from perfmodel.errors import ConfigError, InputError
from perfmodel.hf_config import from_config
from perfmodel.model_shapes import ModelArchitecture

_SHIPPED = Path(__file__).parent / "data" / "models"


@dataclass(frozen=True)
class CatalogEntry:
    """One shipped model.

    Attributes:
        name: Hugging Face id.
        aliases: other names it is found under, lower case.
        path: its configuration file.
        published_parameters: its size as published (synthetic: as its recipe states), in weights.
        published_active_parameters: weights active per token as published; 0 if not.
        active_with_embedding: that figure counts the input embedding.
        with_vision: the published size counts the vision encoder.
        source: where the published figures stand.
    """

    name: str
    aliases: tuple[str, ...]
    path: Path
    published_parameters: int
    published_active_parameters: int
    active_with_embedding: bool
    with_vision: bool
    source: str


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """The models shipped, by Hugging Face id.

    Raises:
        ConfigError: the shipped index is damaged.
    """
    index = read_json(_SHIPPED / "catalog.json")
    return MappingProxyType({name: _entry(index, name) for name in index.data})


def _entry(index: Fields, name: str) -> CatalogEntry:
    fields = index.nested(name)
    if fields is None:
        index.fail(name, "expected an object")
    weights = {"maximum": 10**15}
    return CatalogEntry(
        name=name,
        aliases=tuple(fields.strings("aliases")),
        path=_SHIPPED / fields.string("file"),
        published_parameters=fields.count("published_parameters", **weights),
        published_active_parameters=fields.count("published_active_parameters", 0, **weights),
        active_with_embedding=fields.flag("active_with_embedding"),
        with_vision=fields.flag("with_vision"),
        source=fields.string("source"),
    )


def load_model(
    name_or_path: str | Path, search_path: Iterable[str | Path] = ()
) -> ModelArchitecture:
    """Find a model and read it.

    A path (something that ends in `.json` or `.yaml`, or begins with `/`, `~` or `.`) is read
    as it is: a configuration, a recipe (YAML, see `perfmodel.recipe`) or a folder with a
    `config.json`. A name is looked for in each folder of the search path (`NAME.json`,
    `NAME.yaml` or `NAME/config.json`, with `/` in an id written as it is or as `--`), then
    in the catalog by id or alias in any case, and last as a relative folder.
    A `hf_quant_config.json` beside a `config.json` is honoured (for another `X.json`, a
    `X.hf_quant_config.json`).

    Args:
        name_or_path: e.g. `"llama-3.1-70b"`, `"meta-llama/Llama-3.1-70B"` or a path.
        search_path: folders with the user's own models, which come before those shipped.

    Raises:
        InputError: no such model; the message names near misses and the catalog.
        ConfigError: the configuration can't be read or isn't supported.
    """
    given = str(name_or_path).strip()
    if isinstance(name_or_path, Path) or _looks_like_path(given):
        return _read(_config_file(Path(given).expanduser()))
    for folder in search_path:
        found = _in_folder(Path(folder).expanduser(), given)
        if found is not None:
            return _read(found, given)
    entry = _in_catalog(given)
    if entry is not None:
        return _read(entry.path, entry.name)
    if given and _exists(Path(given)):
        return _read(_config_file(Path(given)))
    raise InputError(_unknown(given))


RECIPES = (".yaml", ".yml")
"""How the name of a recipe's file ends."""


def _looks_like_path(text: str) -> bool:
    return (
        text.endswith((".json", *RECIPES))
        or text.startswith(("/", "~", "."))
        or Path(text).is_absolute()
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no file system has so long a name
        return False


def _config_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "config.json").is_file():
        raise ConfigError("this folder has no config.json", source=str(path))
    return path / "config.json"


def _in_folder(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        raise InputError(f"{folder}: this folder of the model search path does not exist")
    for spelling in (name, name.replace("/", "--")):
        files = (f"{spelling}.json", f"{spelling}.yaml", f"{spelling}/config.json")
        for candidate in (folder / file for file in files):
            if spelling and _exists(candidate):
                return candidate
    return None


def _in_catalog(name: str) -> CatalogEntry | None:
    wanted = name.casefold()
    for entry in catalog().values():
        if wanted == entry.name.casefold() or wanted in entry.aliases:
            return entry
    return None


def _read(path: Path, name: str | None = None) -> ModelArchitecture:
    if path.suffix in RECIPES:
        # pydantic takes its time to load, and most models need none of it.
        from perfmodel.recipe import read_recipe
        from perfmodel.recipe_solver import from_recipe

        recipe = read_recipe(path)
        try:
            return from_recipe(recipe)
        except ConfigError as error:
            where = read_yaml(path).where(error.field.split("."))
            raise ConfigError(f"{where}: {error.problem}") from None
    stem = "" if path.name == "config.json" else f"{path.stem}."
    beside = path.with_name(f"{stem}hf_quant_config.json")
    return from_config(path, name, beside if beside.is_file() else None)


def _unknown(name: str) -> str:
    entries = catalog().values()
    spellings = {spelling.casefold(): spelling for entry in entries for spelling in _names(entry)}
    near = difflib.get_close_matches(name.casefold(), spellings, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(spellings[key] for key in near)}?" if near else ""
    return (
        f"unknown model {name[:80]!r}.{hint} `planner models` lists all; a path to a config.json "
        "or to a recipe (.yaml) will do too"
    )


def _names(entry: CatalogEntry) -> tuple[str, ...]:
    return (entry.name, *entry.aliases)
