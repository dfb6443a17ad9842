"""Names, texts and types inside SQL."""

from __future__ import annotations

import pyarrow as pa

_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.float32(): "FLOAT",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}


def quote_name(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def type_sql(kind: pa.DataType) -> str:
    """The SQL type that a column of an Arrow type is read as.

    Raises:
        TypeError: no table has columns of the type.
    """
    if pa.types.is_struct(kind):
        fields = (f"{quote_name(field.name)} {type_sql(field.type)}" for field in kind)
        return f"STRUCT({', '.join(fields)})"
    if pa.types.is_list(kind):
        return f"{type_sql(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({type_sql(kind.key_type)}, {type_sql(kind.item_type)})"
    if kind not in _TYPES:
        raise TypeError(f"no table has columns of the type {kind}")
    return _TYPES[kind]
