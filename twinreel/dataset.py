"""What a curation job left behind, as tables in memory."""

from __future__ import annotations

import importlib
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING

from twinreel._names import claim

claim("curation", "stages", "manifests")

import pyarrow as pa  # noqa: E402

from curation.cli.opening import open_output  # noqa: E402
from manifests.errors import UsageError  # noqa: E402
from manifests.explore.query import run_query  # noqa: E402

if TYPE_CHECKING:
    import pandas as pd


def open_dataset(out: str | PathLike[str]) -> Dataset:
    """The tables of a curation job as they are now; needs no weights and decodes nothing.

    Args:
        out: folder or `s3://` prefix that `curate` wrote.

    Raises:
        TwinreelError: `not_an_output`, or it cannot be read.
    """
    return Dataset(fspath(out))


class Dataset:
    """The view `dataset` (a row per clip) and the tables of one OUT, as of when it was opened.

    Tables and columns are described in docs/manifests.md. Close it, or use it in a `with`.

    Args:
        out: folder or `s3://` prefix that `curate` wrote.

    Raises:
        TwinreelError: `not_an_output`, or it cannot be read.
    """

    def __init__(self, out: str) -> None:
        self.out = out
        self._connection = open_output(out)

    def __repr__(self) -> str:
        return f"Dataset({self.out!r})"

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the tables."""
        self._connection.close()

    def sql(self, query: str) -> pa.Table:
        """The rows of one SELECT; it can reach nothing but the tables.

        Raises:
            UsageError: `sql_refused` or `sql_error` (names the nearest right columns).
        """
        return run_query(self._connection, query)

    def clips(self, where: str | None = None) -> pa.Table:
        """Rows of `dataset`, by file and time: a clip's own columns and a struct for each stage.

        Args:
            where: an SQL condition, such as `"state = 'reject' AND motion.static_share > 0.5"`.

        Raises:
            UsageError: as `sql`.
        """
        condition = "" if where is None else f"WHERE ({where}\n)"
        return self.sql(f"SELECT * FROM dataset {condition} ORDER BY uri, start_s")

    def arrow(self) -> pa.Table:
        """All of `dataset`: `clips` without a condition."""
        return self.clips()

    def pandas(self, where: str | None = None) -> pd.DataFrame:
        """`clips` as a DataFrame; structs are dicts.

        Raises:
            UsageError: `missing_package`; as `sql`.
        """
        try:
            importlib.import_module("pandas")
        except ImportError as error:
            raise UsageError(
                "missing_package",
                "A DataFrame needs the package pandas.",
                subject="twinreel[explore]",
                remedy="Run: pip install 'twinreel[explore]', or use `arrow`.",
            ) from error
        frame: pd.DataFrame = self.clips(where).to_pandas()
        return frame

    def samples(self) -> pa.Table:
        """Packed samples of the clips that are kept now, in the order in which they lie in shards.

        Columns are those of the struct `sample` (shard, offset_bytes, bytes, frames, ...), then
        `clip_id`, `uri`, `start_s`, `end_s`, `split` and `caption`.
        """
        return self.sql(
            "SELECT sample.*, clip_id, uri, start_s, end_s, split, caption.text AS caption"
            " FROM dataset WHERE state = 'keep' AND sample.status = 'ok'"
            " ORDER BY sample.shard, sample.offset_bytes"
        )
