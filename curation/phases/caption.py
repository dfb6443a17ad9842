"""The phase `caption`: words for clips that have none in the job's style, and their verification.

Captioned is what every gate keeps that does not itself speak of captions. Words are written from
the measurements, taken from beside the file, or written by a multimodal model; what came from
elsewhere is held against the transcript and the tagger, again whenever these have changed, without
asking the model again.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from curation.captions import vllm
from curation.captions.answer import Answer
from curation.captions.attributes import caption as describe
from curation.captions.carried import COLUMN, carried_caption
from curation.captions.client import CaptionOutcome, CaptionRequest, caption_all
from curation.captions.prompt import ClipFacts
from curation.captions.verify import verify
from curation.config import CaptionSettings
from curation.engine.engine import Engine
from curation.engine.progress import Progress
from curation.engine.tasks import Task
from curation.job import Job, error_record
from curation.phases.measured import Media, StoredRows, source_format
from manifests.policy.decide import decide
from manifests.policy.gates import Gate, gates_without
from manifests.store.output import Batch, Output
from manifests.store.records import CaptionRow, ErrorRecord, VerifiedRecord, to_mapping
from stages.media.blocks import Margins
from stages.media.caption_media import ClipMediaTask, clip_media

_COMMIT_ANSWERS = 32
_COMMIT_EVERY_S = 10.0
_SILENT_DB = -75.0
_SPEECH_DIVIDER = "\n"
"""Between the quotations of one caption in the column `speech`."""


def caption(job: Job) -> None:
    """Write the captions that are missing, then verify those whose verification is out of date."""
    if "caption" in job.resolved.unavailable:
        return
    settings, selected = job.configuration.caption, job.resolved.selection.caption
    assert selected is not None
    writer = _Writer(settings, fingerprint=selected[1])
    with job.output.connect() as connection:
        gates = job.configuration.gate_list()
        if settings.backend == "attributes":
            _describe(job.output, _lacking(connection, gates), writer)
            return
        if settings.backend == "carried":
            _carry(job.output, _lacking(connection, gates, or_where=_OTHER_WORDS), writer)
        elif len(rows := _lacking(connection, gates)):
            _ask(job, rows, writer)
    _verify_again(job.output)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Who writes captions, and the fingerprint of what comes of it."""

    settings: CaptionSettings
    fingerprint: str

    def row(
        self,
        clip_id: str,
        *,
        answer: Answer | None = None,
        error: ErrorRecord | None = None,
        model: str | None = None,
    ) -> CaptionRow:
        """A clip's row: what was written, or why nothing was; by the settings' model or another."""
        return CaptionRow(
            clip_id=clip_id,
            style=self.settings.style,
            text=answer.text if answer is not None else None,
            audio=answer.audio if answer is not None else None,
            speech=_SPEECH_DIVIDER.join(answer.speech)
            if answer is not None and answer.speech
            else None,
            model=model or self.settings.model or "",
            verified=None,
            requests=None,
            input_tokens=None,
            output_tokens=None,
            cost=None,
            status="ok" if error is None else "failed",
            error=error,
            fingerprint=self.fingerprint,
        )


def decides(connection: duckdb.DuckDBPyConnection, gates: Sequence[Gate]) -> bool:
    """Whether some gate speaks of captions, so that clips have to be decided once more."""
    return len(gates_without(connection, gates, ("caption",))) < len(gates)


_CARRIED_WORDS = f"trim(regexp_replace(d.carried['{COLUMN}'], '\\s+', ' ', 'g'))"
_OTHER_WORDS = f"""(CASE WHEN coalesce({_CARRIED_WORDS}, '') = ''
    THEN d.caption.model = 'carried'
    ELSE d.caption.model <> 'carried' OR d.caption.text <> {_CARRIED_WORDS} END)"""
"""Where the words that came with a file are others than its clips have."""


def _lacking(
    connection: duckdb.DuckDBPyConnection, gates: Sequence[Gate], *, or_where: str = "FALSE"
) -> StoredRows:
    """Clips that only captions keep from being kept and that have none, or one to try again.

    Args:
        connection: to the tables.
        gates: the job's.
        or_where: which others, as SQL over `dataset d`.
    """
    others = gates_without(connection, gates, ("caption",))
    connection.register("verdicts", decide(connection, others))
    rows = StoredRows(
        connection,
        f"""SELECT d.* FROM dataset d JOIN verdicts v USING (clip_id)
        WHERE v.state = 'keep'
        AND (d.caption IS NULL OR d.caption.error.retryable OR {or_where})
        ORDER BY d.clip_id""",
    )
    connection.unregister("verdicts")
    return rows


def _describe(output: Output, rows: StoredRows, writer: _Writer) -> None:
    batch = Batch(output)
    for row in rows:
        batch.add({"captions": [writer.row(row["clip_id"], answer=_described(row, writer))]})
    batch.flush()


def _carry(output: Output, rows: StoredRows, writer: _Writer) -> None:
    """Take the words that came with the clips' files; where none did, describe the clip."""
    batch = Batch(output)
    for row in rows:
        words = carried_caption(dict(row["carried"] or ()))
        if words is None:
            described = _described(row, writer)
            taken = writer.row(row["clip_id"], answer=described, model="attributes")
        else:
            taken = writer.row(row["clip_id"], answer=words)
            taken = dataclasses.replace(taken, verified=_verified(row, words))
        batch.add({"captions": [taken]})
    batch.flush()


def _described(row: Mapping[str, Any], writer: _Writer) -> Answer:
    """What was measured of a clip, as a caption."""
    words = describe(row, style=writer.settings.style)
    return Answer(words.text, (words.speech,) if words.speech else (), words.audio)


def _ask(job: Job, rows: StoredRows, writer: _Writer) -> None:
    """Have the model caption the clips; every answer is committed soon after it came."""
    settings = writer.settings
    if settings.backend == "vllm":
        # Before Ray's own tools start one by themselves, somewhere else.
        job.engine.start()
    prompts = Path(settings.prompts) if settings.prompts else None
    batch = Batch(job.output, tasks=_COMMIT_ANSWERS, seconds=_COMMIT_EVERY_S)
    # vLLM takes requests in a thread of its own: what fails there is written down here.
    failed: collections.deque[CaptionRow] = collections.deque()
    under_way: dict[str, dict[str, Any]] = {}
    media = job.configuration.decode.media
    requests = _requests(job.engine, rows, media, writer, under_way, failed)
    left_out = False
    with Progress("caption", len(rows), "clips") as progress:
        try:
            for outcome in _outcomes(settings, requests, prompts):
                if outcome.left_out:
                    left_out = True
                    continue
                row = under_way.pop(outcome.clip_id)
                batch.add({"captions": [_outcome_row(writer, row, outcome)]})
                progress.advance(failed=outcome.error is not None)
                _record(failed, batch, progress)
            _record(failed, batch, progress)
        finally:
            # Answers that were paid for are kept, whatever ended the phase.
            batch.flush()
    if left_out:
        job.notes.append(
            "Some clips have no caption yet: caption.endpoint.max_cost was reached. The same"
            " command goes on from there."
        )


def _outcomes(
    settings: CaptionSettings, requests: Iterator[CaptionRequest], prompts: Path | None
) -> Iterator[CaptionOutcome]:
    if settings.backend == "vllm":
        assert settings.vllm is not None
        engine = settings.vllm.model_copy(update={"images": settings.stills})
        return vllm.caption_all(requests, settings.style, engine, prompts)
    assert settings.endpoint is not None
    return caption_all(requests, settings.style, settings.endpoint, prompts)


def _requests(
    engine: Engine,
    rows: StoredRows,
    media: Media,
    writer: _Writer,
    under_way: dict[str, dict[str, Any]],
    failed: collections.deque[CaptionRow],
) -> Iterator[CaptionRequest]:
    """Requests as their clips are decoded, whose rows go to `under_way`.

    What is to be said of clips that cannot be decoded goes to `failed`.
    """

    def tasks() -> Iterator[Task[Any]]:
        for row in rows:
            under_way[row["clip_id"]] = row
            yield Task(clip_media, _media_task(row, media, writer.settings), row["uri"])

    for outcome in engine.run(tasks()):
        clip_id = outcome.task.argument.clip_id
        if outcome.error is None:
            facts = clip_facts(under_way[clip_id], writer.settings)
            yield CaptionRequest(clip_id, outcome.result, facts)
        else:
            earlier = (under_way.pop(clip_id)["caption"] or {}).get("error")
            failed.append(writer.row(clip_id, error=error_record(outcome.error, earlier)))


def _record(failed: collections.deque[CaptionRow], batch: Batch, progress: Progress) -> None:
    """Add the rows of clips that could not be decoded."""
    while failed:
        batch.add({"captions": [failed.popleft()]})
        progress.advance(failed=True)


def _media_task(row: Mapping[str, Any], media: Media, settings: CaptionSettings) -> ClipMediaTask:
    margins = (row.get("picture") or {}).get("margins_px") or {}
    source = source_format(row, media)
    return ClipMediaTask(
        clip_id=row["clip_id"],
        uri=row["uri"],
        source=source,
        start_s=row["start_s"],
        end_s=row["end_s"],
        margins_px=Margins(**margins) if margins else Margins(),
        frames=settings.stills,
        long_side_px=settings.long_side_px,
        with_video=source.video_index is not None and settings.style != "ovi-audio",
    )


def clip_facts(row: Mapping[str, Any], settings: CaptionSettings) -> ClipFacts:
    """What the measurements of a clip say that its caption has to agree with."""
    loudness, speech = row.get("loudness") or {}, row.get("speech") or {}
    volume_db = loudness.get("mean_volume_db")
    silent = loudness.get("status") == "not_applicable" or (
        volume_db is not None and volume_db < _SILENT_DB
    )
    transcript = _transcript(row)
    ratio = speech.get("speech_ratio")
    if silent:
        has_speech: bool | None = False
    elif transcript is not None:
        has_speech = bool(transcript.strip())
    elif ratio is None:
        has_speech = None
    else:
        # A detector that hears a syllable or two may be wrong: then either answer will do.
        has_speech = True if ratio >= settings.speech_ratio else False if ratio == 0 else None
    return ClipFacts(
        has_sound=not silent,
        has_speech=has_speech,
        duration_s=row["end_s"] - row["start_s"],
        transcript=transcript,
        stills=settings.stills,
    )


def _transcript(row: Mapping[str, Any]) -> str | None:
    """What the recogniser heard; None where it was not asked."""
    transcript = row.get("transcript") or {}
    if transcript.get("status") == "not_applicable":
        return ""
    text: str | None = transcript.get("text")
    return text


def _verified(row: Mapping[str, Any], answer: Answer) -> VerifiedRecord:
    audio_class = row.get("audio_class") or {}
    found = verify(
        answer,
        transcript=_transcript(row),
        audio_class=audio_class if audio_class.get("status") == "ok" else None,
    )
    return VerifiedRecord(**dataclasses.asdict(found))


def _outcome_row(writer: _Writer, row: Mapping[str, Any], outcome: CaptionOutcome) -> CaptionRow:
    verified = _verified(row, outcome.answer) if outcome.answer is not None else None
    return dataclasses.replace(
        writer.row(
            outcome.clip_id,
            answer=outcome.answer,
            error=error_record(outcome.error) if outcome.error is not None else None,
        ),
        verified=verified,
        requests=outcome.requests,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        cost=outcome.cost,
    )


def _verify_again(output: Output) -> None:
    """Bring verifications up to date with transcripts and tags that came later."""
    batch = Batch(output)
    with output.connect() as connection:
        for row in StoredRows(
            connection,
            "SELECT * FROM dataset WHERE caption.status = 'ok' AND caption.model <> 'attributes'"
            " ORDER BY clip_id",
        ):
            known = row["caption"]
            speech = tuple(known["speech"].split(_SPEECH_DIVIDER)) if known["speech"] else ()
            verified = _verified(row, Answer(known["text"], speech, known["audio"]))
            if to_mapping(verified) != known["verified"]:
                fresh = {**known, "clip_id": row["clip_id"], "verified": to_mapping(verified)}
                batch.add({"captions": [fresh]})
    batch.flush()
