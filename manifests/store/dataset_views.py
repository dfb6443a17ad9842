"""The views of one connection, written as SQL: current rows by key, structs by fingerprint."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import duckdb
import pyarrow as pa

from manifests.store.log_views import PRIVATE, LogViews
from manifests.store.selection import Selection, SideTable
from manifests.store.sql import quote_name, quote_text
from manifests.store.store import VOLATILE_COLUMNS, Store, TableFile

SOURCE_PREFIX = "source_"
_PREFIXED_SOURCE_COLUMNS = frozenset({"bytes", "etag", "sha256", "status", "error", "fingerprint"})
"""Columns of `sources` that would not be understood beside a clip without a prefix."""

_TABLES_OF_DATASET = frozenset({"clips", "sources", "decisions", "mix", "captions", "samples"})
_MOST_COPIED_CLIPS = 1000
"""A question over the lazy view costs some 30 ms before it reads a row, for twelve tables have to
be bound; up to this many clips all their columns are copied in about the time of two questions."""


class Views:
    """Creates the views of one connection, and brings them up to date after commits."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, store: Store, selection: Selection
    ) -> None:
        self._connection = connection
        self._store = store
        self._selection = selection
        self._logs = LogViews(connection, store)
        clips = store.schemas.get("clips", pa.schema([]))
        self._stages = {
            field.name: selection.stages[field.name]
            for field in clips
            if pa.types.is_struct(field.type) and field.name in selection.stages
        }
        self._clip_columns = [
            field.name
            for field in clips
            if not pa.types.is_struct(field.type) and field.name not in VOLATILE_COLUMNS
        ]

    def create(self, files: Mapping[str, Sequence[TableFile]]) -> None:
        """Create all of them over the tables' live files."""
        self._run(f"CREATE SCHEMA {PRIVATE}")
        self._logs.create(files)
        self._create_keyed_views()
        self._create_side_views()
        if "clips" in self._store.schemas:
            self._create_clips()
            self._create_dataset()
        self._note("view_files", "path", self._logs.files)
        self._note("stage_fingerprints", "stage", sorted(self._stages))
        mix = ["mix"] if self._selection.mix is not None else []
        self._note("filled_later", "name", ["caption", *mix])
        self._note("packed_windows", "name", self._selection.packed_windows)

    def refresh(self, files: Mapping[str, Sequence[TableFile]]) -> None:
        """Show the live files as they are now; views of tables without a new file stay."""
        changed = self._logs.refresh(files)
        if changed:
            self._note("view_files", "path", self._logs.files)
        if "clips" in changed:
            self._create_clips()
        if changed & _TABLES_OF_DATASET:
            self._create_dataset()

    def _run(self, sql: str) -> duckdb.DuckDBPyConnection:
        return self._connection.execute(sql)

    def _note(self, table: str, column: str, values: Sequence[str]) -> None:
        rows = ", ".join(f"({quote_text(value)})" for value in values)
        self._run(f"CREATE OR REPLACE TABLE {PRIVATE}.{table} ({column} VARCHAR)")
        if rows:
            self._run(f"INSERT INTO {PRIVATE}.{table} VALUES {rows}")

    def _create_keyed_views(self) -> None:
        """The latest row per key."""
        chosen = self._selection
        caption = chosen.caption
        # By address: a file that has changed is another source, and takes the old one's place.
        self._create_latest("sources", ("uri",), {"fingerprint": chosen.probe})
        failed = chosen.failed_units or chosen.units
        units = "true"
        if chosen.units is not None and failed is not None:
            units = (
                f"fingerprint = CASE status WHEN 'failed' THEN {quote_text(failed)}"
                f" ELSE {quote_text(chosen.units)} END"
            )
        self._create_latest("units", ("source_id", "unit_index"), {}, units)
        decided = "true"
        if chosen.decided_under is not None:
            under = quote_text(chosen.decided_under)
            decided = f"coalesce(decided_under, {under}) = {under}"
        self._create_latest("decisions", ("clip_id",), {"policy": chosen.policy}, decided)
        self._create_latest(
            "captions",
            ("clip_id",),
            {"style": caption[0], "fingerprint": caption[1]} if caption else {},
        )
        mix = "true" if chosen.mix is not None else "false"
        self._create_latest("mix", ("clip_id",), {"fingerprint": chosen.mix}, mix)
        self._create_latest("samples", ("profile", "sample_id"), {"profile": chosen.profile})
        if "signals" in self._store.schemas:
            wanted = [
                f"(stage = {quote_text(stage)} AND fingerprint = {quote_text(fingerprint)})"
                for stage, fingerprint in sorted(chosen.stages.items())
            ]
            condition = " OR ".join(wanted) or "false"
            key = ("source_id", "unit_index", "stage")
            self._create_latest("signals", key, {}, condition)

    def _create_latest(
        self,
        table: str,
        key: Sequence[str],
        equals: Mapping[str, str | None],
        condition: str = "true",
    ) -> None:
        conditions = [condition]
        conditions += [
            f"{quote_name(column)} = {quote_text(value)}"
            for column, value in equals.items()
            if value is not None
        ]
        where = " AND ".join(f"({part})" for part in conditions)
        keys = ", ".join(map(quote_name, key))
        name = quote_name(table)
        self._run(
            f"CREATE VIEW {PRIVATE}.{quote_name('latest_' + table)} AS"
            f" SELECT {keys}, max(row_key) AS row_key FROM {PRIVATE}.{name}"
            f" WHERE {where} GROUP BY {keys}"
        )
        self._run(
            f"CREATE VIEW {name} AS SELECT rows.* EXCLUDE (row_key) FROM {PRIVATE}.{name} AS rows"
            f" SEMI JOIN {PRIVATE}.{quote_name('latest_' + table)} AS latest USING (row_key)"
        )

    def _create_side_views(self) -> None:
        """Rows that come in groups: a unit's or a clip's group as it was measured last, whole."""
        for table, side in self._selection.side_tables.items():
            self._create_side_view(table, side)

    def _create_side_view(self, table: str, side: SideTable) -> None:
        key = ", ".join(map(quote_name, side.key))
        fingerprint = self._selection.stages.get(side.stage)
        condition = (
            f"fingerprint = {quote_text(fingerprint)}" if fingerprint is not None else "false"
        )
        name = f"{PRIVATE}.{quote_name(table)}"
        self._run(
            f"CREATE VIEW {quote_name(table)} AS"
            f" SELECT rows.* EXCLUDE (row_key) FROM {name} AS rows SEMI JOIN ("
            f"SELECT {key}, max(commit) AS commit FROM {name}"
            f" WHERE {condition} GROUP BY {key}) AS latest"
            f" USING ({key}, commit) WHERE {condition}"
        )

    def _create_clips(self) -> None:
        """`clips`: a clip's own columns and, per stage, its latest struct of that fingerprint."""
        self._create_current_clips()
        own_rows = self._stages_in_other_rows()
        structs, joins = [], []
        for index, stage in enumerate(self._stages):
            name = quote_name(stage)
            if stage not in own_rows:
                structs.append(f"base.{name}")
                continue
            structs.append(f"stage_{index}.{name}")
            joins.append(
                f"LEFT JOIN (SELECT row_key, {name} FROM {PRIVATE}.clips"
                f" WHERE {self._matches(stage)}) AS stage_{index}"
                f" ON stage_{index}.row_key = current.stage_{index}"
            )
        columns = [f"base.{quote_name(column)}" for column in self._clip_columns]
        self._run(
            f"CREATE OR REPLACE VIEW {PRIVATE}.clips_with_row AS"
            f" SELECT base.row_key, {', '.join([*columns, *structs])}"
            f" FROM {PRIVATE}.clips AS base"
            f" JOIN {PRIVATE}.current_clips AS current ON base.row_key = current.base "
            + " ".join(joins)
        )
        self._run(
            "CREATE OR REPLACE VIEW clips AS"
            f" SELECT * EXCLUDE (row_key) FROM {PRIVATE}.clips_with_row"
        )

    def _create_current_clips(self) -> None:
        """Per clip of the segmentation, the row that holds most, and per stage the row to take."""
        stages = [
            f"max(row_key) FILTER ({self._matches(stage)}) AS stage_{index}"
            for index, stage in enumerate(self._stages)
        ]
        held = [f"CASE WHEN {self._matches(stage)} THEN 1 ELSE 0 END" for stage in self._stages]
        segmentation = self._selection.segmentation
        cut = "true" if segmentation is None else f"segmentation = {quote_text(segmentation)}"
        # The count of matching structs goes above the row's key, so that one maximum finds the row.
        base = f"max((({' + '.join(held) or '0'})::HUGEINT << 64) + row_key) FILTER ({cut})"
        self._run(
            f"CREATE OR REPLACE TABLE {PRIVATE}.current_clips AS"
            f" SELECT clip_id, ({base} % (1::HUGEINT << 64))::BIGINT AS base"
            f"{''.join(', ' + stage for stage in stages)}"
            f" FROM {PRIVATE}.clips GROUP BY clip_id HAVING base IS NOT NULL"
        )

    def _matches(self, stage: str) -> str:
        return f"{quote_name(stage)}.fingerprint = {quote_text(self._stages[stage])}"

    def _stages_in_other_rows(self) -> set[str]:
        """Stages of which some clip's struct lies in another row than the clip's base row."""
        if not self._stages:
            return set()
        counts = [
            f"count(*) FILTER (stage_{index} IS DISTINCT FROM base)"
            for index in range(len(self._stages))
        ]
        rows = self._run(f"SELECT {', '.join(counts)} FROM {PRIVATE}.current_clips").fetchall()
        return {stage for stage, count in zip(self._stages, rows[0], strict=True) if count}

    def _create_dataset(self) -> None:
        """`dataset`, lazy where the clips are many."""
        self._create_current_links()
        [(clips,)] = self._run(f"SELECT count(*) FROM {PRIVATE}.current_links").fetchall()
        sql = self._dataset_sql()
        if clips <= _MOST_COPIED_CLIPS:
            self._run(f"CREATE OR REPLACE TABLE {PRIVATE}.copied_dataset AS {sql}")
            sql = f"FROM {PRIVATE}.copied_dataset"
        self._run(f"CREATE OR REPLACE VIEW dataset AS {sql}")

    def _create_current_links(self) -> None:
        """Per clip, its decision and which rows hold what later phases made of it."""
        self._run(
            """CREATE OR REPLACE TABLE keyed.current_links AS
            WITH packed AS (
                SELECT member.clip_id AS clip_id, max(row_key) AS sample FROM (
                    SELECT row_key, unnest(members) AS member FROM keyed.samples
                    SEMI JOIN keyed.latest_samples USING (row_key)
                ) WHERE member.role = 'target' GROUP BY ALL
            )
            SELECT current.base, decisions.state, decisions.rejected_by, decisions.pending_on,
                latest_mix.row_key AS mix, latest_captions.row_key AS caption, packed.sample
            FROM keyed.current_clips AS current
            LEFT JOIN decisions USING (clip_id)
            LEFT JOIN keyed.latest_mix USING (clip_id)
            LEFT JOIN keyed.latest_captions USING (clip_id)
            LEFT JOIN packed USING (clip_id)"""
        )

    def _dataset_sql(self) -> str:
        clip_columns = {*self._clip_columns, *self._stages}
        shown = shown_source_columns(self._store.schemas["sources"].names, clip_columns)
        source_columns = [
            f"sources.{quote_name(name)} AS {quote_name(label)}" for name, label in shown.items()
        ]
        return f"""
            SELECT clips.* EXCLUDE (row_key), {", ".join(source_columns)},
                links.state, links.rejected_by, links.pending_on,
                CASE WHEN mix.row_key IS NOT NULL THEN {self._packed("mix")} END AS mix,
                CASE WHEN captions.row_key IS NOT NULL THEN {self._packed("captions")} END
                    AS caption,
                CASE WHEN samples.row_key IS NOT NULL THEN {self._packed("samples")} END
                    AS sample
            FROM {PRIVATE}.clips_with_row AS clips
            JOIN {PRIVATE}.current_links AS links ON clips.row_key = links.base
            LEFT JOIN sources ON clips.source_id = sources.source_id
            LEFT JOIN {PRIVATE}.mix AS mix ON mix.row_key = links.mix
            LEFT JOIN {PRIVATE}.captions AS captions ON captions.row_key = links.caption
            LEFT JOIN {PRIVATE}.samples AS samples ON samples.row_key = links.sample
            WHERE clips.source_id NOT IN (
                SELECT source_id FROM sources_log EXCEPT SELECT source_id FROM sources
            )"""

    def _packed(self, table: str) -> str:
        """A table's row as a struct, without its clip and its volatile columns."""
        names = [
            field.name
            for field in self._store.schemas[table]
            if field.name not in VOLATILE_COLUMNS and field.name != "clip_id"
        ]
        return (
            "{"
            + ", ".join(f"{quote_text(name)}: {table}.{quote_name(name)}" for name in names)
            + "}"
        )


def shown_source_columns(names: Iterable[str], clip_columns: Collection[str]) -> dict[str, str]:
    """What the view `dataset` calls the columns of `sources`, by their names there.

    Args:
        names: of the columns of `sources`.
        clip_columns: names that the clip's own columns have.
    """
    shown = {}
    for name in names:
        if name not in VOLATILE_COLUMNS and name != "source_id":
            prefixed = name in _PREFIXED_SOURCE_COLUMNS or name in clip_columns
            shown[name] = SOURCE_PREFIX + name if prefixed else name
    return shown
