"""The plainest value of a JSON schema, made without a model: what the echo engine answers with."""

from __future__ import annotations

from typing import Any

__all__ = ["example_of"]


def example_of(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """A small value that fits the schema, always the same.

    Words of JSON Schema that need a search (`pattern`, `not`, `multipleOf`) are not looked at.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        return example_of(target, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return example_of(schema[key][0], root)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in [*schema["allOf"], {k: v for k, v in schema.items() if k != "allOf"}]:
            merged = {**merged, **part}
        return example_of(merged, root)
    kind: Any = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        names = schema.get("required", list(schema.get("properties", {})))
        fields = schema.get("properties", {})
        return {name: example_of(fields.get(name, {}), root) for name in names}
    if kind == "array":
        return [example_of(schema.get("items", {}), root)] * int(schema.get("minItems", 1))
    if kind in ("integer", "number"):
        low: Any = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        above: int = 1 if "minimum" not in schema and "exclusiveMinimum" in schema else 0
        if low is not None:
            return low + above
        return min(0, high - 1) if high is not None else 0
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return "text".ljust(int(schema.get("minLength", 0)), "x")[: schema.get("maxLength")]
