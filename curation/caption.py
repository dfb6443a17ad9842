"""The phase `caption`: words for kept clips that have none in the job's style."""

from __future__ import annotations

from curation.job import Batch, Job
from manifests.records import CaptionRow
from stages.attributes import caption as describe


def caption(job: Job) -> None:
    """Write the captions that are missing, from the measurements of each clip."""
    resolved = job.resolved.selection.caption
    assert resolved is not None
    style, fingerprint = job.configuration.caption.style, resolved[1]
    with job.connect() as connection:
        rows = connection.sql(
            """SELECT d.* FROM dataset d LEFT JOIN captions c USING (clip_id)
            WHERE d.state = 'keep' AND c.clip_id IS NULL ORDER BY d.clip_id"""
        ).to_arrow_table()
    batch = Batch(job)
    for row in rows.to_pylist():
        words = describe(row, style=style)
        batch.add(
            {
                "captions": [
                    CaptionRow(
                        clip_id=row["clip_id"],
                        style=style,
                        text=words.text,
                        audio=words.audio,
                        speech=words.speech,
                        model=job.configuration.caption.backend,
                        status="ok",
                        error=None,
                        fingerprint=fingerprint,
                    )
                ]
            }
        )
    batch.flush()
