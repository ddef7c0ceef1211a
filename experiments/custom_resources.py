"""Fields of custom resources that `planner deploy` writes, recorded from their definitions.

    python experiments/custom_resources.py record CRD.yaml --source TEXT --out fields.json
    python experiments/custom_resources.py check DEPLOYMENT CRD.yaml...

`record` keeps names and types of all fields down to pod templates, which Kubernetes' own schemas
cover. `check` validates a folder of `planner deploy` against whole definitions, unknown fields
refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def served(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Kind, API version and schema of every version that a definition serves."""
    for document in yaml.safe_load_all(path.read_text()):
        if not document:
            continue
        spec = document["spec"]
        for one in spec["versions"]:
            if one["served"]:
                version = f"{spec['group']}/{one['name']}"
                yield spec["names"]["kind"], version, one["schema"]["openAPIV3Schema"]


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Paths and types of all fields: `spec.targetPorts[].number`, `integer`."""
    if schema.get("x-kubernetes-int-or-string"):
        yield path, "integer or string"
        return
    kind = schema.get("type", "any")
    properties = schema.get("properties", {})
    if "containers" in properties.get("spec", {}).get("properties", {}):
        yield path, "pod"
        return
    if kind == "array":
        yield path, "array"
        yield from fields(schema["items"], f"{path}[]")
        return
    if path:
        yield path, "map" if kind == "object" and not properties else kind
    for name, inner in properties.items():
        yield from fields(inner, f"{path}.{name}" if path else name)


def stable(version: str) -> tuple[bool, bool, str]:
    """Orders API versions: alpha before beta before stable, then by name."""
    return "alpha" not in version, "beta" not in version, version


def strict(schema: Any) -> Any:
    """A schema that refuses fields it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(inner) for name, inner in schema.items()}
    if found.pop("x-kubernetes-int-or-string", False):
        found.pop("type", None)
    named = isinstance(found.get("properties"), dict) and bool(found["properties"])
    if named and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def record(path: Path, source: str, out: Path) -> None:
    """Write the newest stable version's fields."""
    kind, version, schema = max(served(path), key=lambda one: stable(one[1]))
    known = {
        name: type_
        for name, type_ in fields(schema)
        if name.startswith("spec") or name in ("apiVersion", "kind", "metadata")
    }
    table = {"kind": kind, "apiVersion": version, "source": source, "fields": known}
    out.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{out}: {len(known)} fields of {version} {kind}")


def check(folder: Path, definitions: list[Path]) -> None:
    """Validate every object of a custom kind."""
    import jsonschema

    schemas = {
        (kind, version): schema for path in definitions for kind, version, schema in served(path)
    }
    for path in sorted((folder / "kubernetes").glob("*.yaml")):
        for found in yaml.safe_load_all(path.read_text()):
            schema = schemas.get((found["kind"], found["apiVersion"]))
            if schema is not None:
                whole = strict(schema)
                whole["properties"]["metadata"] = {"type": "object"}
                jsonschema.validate(found, whole)
                print(f"{path}: {found['kind']} is valid")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    one = commands.add_parser("record")
    one.add_argument("definition", type=Path)
    one.add_argument("--source", required=True)
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("check")
    two.add_argument("folder", type=Path)
    two.add_argument("definitions", type=Path, nargs="+")
    chosen = parser.parse_args()
    if chosen.command == "record":
        record(chosen.definition, chosen.source, chosen.out)
    else:
        check(chosen.folder, chosen.definitions)


if __name__ == "__main__":
    main()
