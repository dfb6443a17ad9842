"""Opening what a job wrote, also of versions that kept no selection beside it.

Only these need the stages' registry, which is loaded where it is needed: a stage of another package
that is broken must take reading from nobody.
"""

from __future__ import annotations

import duckdb

from manifests.explore.open import open_view, saved_selection
from manifests.store.selection_file import SavedSelection


def open_output(out: str) -> duckdb.DuckDBPyConnection:
    """`manifests.explore.open.open_view`, also of what versions wrote that saved no selection.

    Raises:
        UsageError: as `selection_of`.
        StorageError: OUT cannot be read.
    """
    return open_view(out, _of_job_file)


def selection_of(out: str) -> SavedSelection:
    """What the last job on OUT resolved to, worked out where it is not saved.

    Raises:
        UsageError: as `manifests.explore.open.saved_selection`, or as
            `curation.job.selection_of_job_file`.
        StorageError: OUT cannot be read.
    """
    return saved_selection(out, _of_job_file)


def _of_job_file(out: str) -> SavedSelection:
    from curation.job import selection_of_job_file  # noqa: PLC0415 - loads every stage

    return selection_of_job_file(out)
