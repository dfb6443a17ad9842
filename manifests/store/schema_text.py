"""Arrow schemas as plain JSON that a person can read: a type is its name, or a list, map or struct.

`{"energy": {"list": "float"}, "mark": {"struct": {"status": "string"}}}`; columns and fields are in
their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_SCALARS: dict[str, pa.DataType] = {
    str(kind): kind
    for kind in (
        pa.string(), pa.binary(), pa.bool_(), pa.int64(), pa.int32(), pa.float64(), pa.float32(),
    )
}  # fmt: skip


def schema_to_json(schema: pa.Schema) -> dict[str, Any]:
    """The type of every column, by its name.

    Raises:
        TypeError: a column's type is none that tables have.
    """
    return {field.name: _type_to_json(field.type) for field in schema}


def schema_from_json(columns: Mapping[str, Any]) -> pa.Schema:
    """The schema that `schema_to_json` was given.

    Raises:
        ValueError: it is none.
    """
    return pa.schema([pa.field(name, _type_from_json(kind)) for name, kind in columns.items()])


def _type_to_json(kind: pa.DataType) -> str | dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": schema_to_json(pa.schema(list(kind)))}
    if pa.types.is_list(kind):
        return {"list": _type_to_json(kind.value_type)}
    if pa.types.is_map(kind):
        return {"map": [_type_to_json(kind.key_type), _type_to_json(kind.item_type)]}
    if str(kind) not in _SCALARS:
        raise TypeError(f"no table has columns of the type {kind}")
    return str(kind)


def _type_from_json(kind: object) -> pa.DataType:
    match kind:
        case str() if kind in _SCALARS:
            return _SCALARS[kind]
        case {"struct": Mapping() as fields}:
            return pa.struct(list(schema_from_json(fields)))
        case {"list": value}:
            return pa.list_(_type_from_json(value))
        case {"map": [key, value]}:
            return pa.map_(_type_from_json(key), _type_from_json(value))
    raise ValueError(f"no type of a column: {kind!r}")
