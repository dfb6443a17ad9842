"""Kept samples as columns: millions of them in mapped memory, each a row when it is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.data.samples import KeptSample

ORDER_KEY = "order_key"
"""The column with 64 bits of the SHA-256 of a sample's id, which all orders are made of."""
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("clip_id", pa.string()),
        ("shard", pa.string()),
        ("offset_bytes", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("audio_rate_hz", pa.int64()),
        ("audio_samples", pa.int64()),
        ("split", pa.string()),
        ("caption", pa.string()),
        (ORDER_KEY, pa.uint64()),
    ]
)


class SampleTable(Sequence[KeptSample]):
    """Samples by index, and their numbers as NumPy columns.

    Args:
        table: in `SCHEMA`; may lie in a mapped file.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, samples: Iterable[KeptSample]) -> SampleTable:
        """A table of samples that are at hand one by one."""
        rows = [
            {**dataclasses.asdict(sample), ORDER_KEY: _order_key(sample.sample_id)}
            for sample in samples
        ]
        return cls(pa.Table.from_pylist(rows, schema=SCHEMA))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> KeptSample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleTable: ...
    def __getitem__(self, index: int | slice) -> KeptSample | SampleTable:
        """A sample, or a run of them.

        Raises:
            IndexError: there are not so many.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return SampleTable(self.table.take(pa.array(range(start, stop, step), pa.int64())))
            return SampleTable(self.table.slice(start, max(0, stop - start)))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self.table.slice(index % len(self), 1).drop_columns([ORDER_KEY]).to_pylist()[0]
        return KeptSample(**row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleTable) and bool(self.table.equals(other.table))

    __hash__ = None  # type: ignore[assignment]  # as of any list

    def by_id(self) -> SampleTable:
        """The same, sorted by id."""
        return SampleTable(self.table.sort_by("sample_id"))

    def numbers(self, column: str) -> npt.NDArray[np.generic]:
        """A column of numbers [samples]; 0 where there is none."""
        chunks = self.table.column(column).chunks
        parts = [np.from_dlpack(pc.fill_null(chunk, 0)) for chunk in chunks]
        kind = self.table.schema.field(column).type.to_pandas_dtype()
        return np.concatenate(parts) if parts else np.empty(0, kind)


def most_common_size(samples: SampleTable) -> tuple[int, int] | None:
    """Columns and rows that most samples with frames have; None if none has frames."""
    table = samples.table.filter(pc.greater(samples.table["frames"], 0))
    counts = table.group_by(["width", "height"]).aggregate([([], "count_all")])
    if not len(counts):
        return None
    order = [("count_all", "descending"), ("width", "ascending"), ("height", "ascending")]
    row = counts.sort_by(order).slice(0, 1).to_pylist()[0]
    return row["width"], row["height"]


def _order_key(sample_id: str) -> int:
    return int(hashlib.sha256(sample_id.encode()).hexdigest()[:16], 16)
