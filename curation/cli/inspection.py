"""Looking at what a job wrote: the funnel and what `verify` found, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from curation.cli.opening import open_output, selection_of
from manifests.errors import one_line
from manifests.explore.funnel import Funnel, SampleCounts
from manifests.explore.unpacked import HELD, Unpacked, unpacked
from manifests.store.lease import Lease
from manifests.store.store import Store

if TYPE_CHECKING:
    from training.data.verify import Verification


def inspect_samples(out: str) -> tuple[Verification, Unpacked]:
    """What every kept sample of OUT reads back as, and the clips that are in no shard."""
    from training.data.verify import verify_samples  # noqa: PLC0415 - decoders

    with open_output(out) as connection:
        return verify_samples(out, connection), unpacked(connection)


def compact_tables(out: str) -> tuple[int, int]:
    """Fold the manifest files; how many there were and are."""
    store = Store(out, schemas=selection_of(out).schemas)
    with Lease(store.storage):
        before = _file_count(store)
        store.compact()
        return before, _file_count(store)


def _file_count(store: Store) -> int:
    return sum(len(store.live_files(table)) for table in store.tables())


def verification_lines(result: Verification, lacking: Unpacked) -> Iterator[str]:
    """What `inspect_samples` found, as lines of text."""
    yield (
        f"{result.samples} samples in {result.shards} shards: {result.frames} frames,"
        f" {result.audio_s:.1f} s of sound, {len(result.bad)} bad"
    )
    for problem in result.bad:
        yield f"  {one_line(problem)}"
    if lacking.total:
        counts = [f"{code.code} {code.count}" for code in (*lacking.for_now, *lacking.for_good)]
        counts += [f"{HELD} {lacking.held}"] if lacking.held else []
        yield f"{lacking.total} kept clips are not packed: {', '.join(counts)}"
    for clip in lacking.clips:
        yield f"  not packed  {clip.code}: {one_line(clip.uri)} (clip {clip.clip_id})"
        yield f"              {one_line(clip.message)}"
    if lacking.total > len(lacking.clips):
        yield f"  and {lacking.total - len(lacking.clips)} more, which are not listed"
    if lacking.undecided:
        yield (
            f"{lacking.undecided} clips are not decided by the current gates: run `twinreel select`"
        )
    if lacking.not_yet:
        yield f"note: {lacking.not_yet} kept clips are not packed yet: run `twinreel curate`"
    if lacking.pending:
        yield f"note: {lacking.pending} clips are pending: what they wait for is in `pending_on`"


def funnel_lines(state: Funnel, *, distributions: bool) -> Iterator[str]:
    """The funnel as lines of text."""
    sources = state.sources
    decoded = f"{_time(sources.ok.seconds)} in {sources.ok.count} that decode"
    yield f"sources   {sources.total.count:>7}   {decoded}"
    for failed in state.failed_files:
        yield f"  failed  {failed.code}: {one_line(failed.uri)}"
        yield f"          {one_line(failed.message)}"
    yield f"clips     {state.clips.count:>7}   {_time(state.clips.seconds)}"
    for name, amount in (
        ("kept", state.kept),
        ("rejected", state.rejected),
        ("pending", state.pending),
        ("undecided", state.undecided),
    ):
        if amount.count or name == "kept":
            share = amount.seconds / state.clips.seconds if state.clips.seconds else 0.0
            yield f"  {name:<10}{amount.count:>5}   {_time(amount.seconds)} ({share:.0%})"
        if name == "rejected":
            width = max([18, *(len(gate.gate) + 1 for gate in state.rejected_by)])
            for gate in state.rejected_by:
                alone = f"{gate.alone.count} by it alone"
                yield f"    {gate.gate:<{width}}{gate.together.count:>5}   {alone}"
        if name == "pending":
            for cause in state.pending_on:
                yield f"    {cause.name:<18}{cause.clips.count:>5}"
    for stage in state.stages:
        for failure in stage.failed_by_code:
            yield f"  {stage.stage} failed on {failure.count} clips: {failure.code}"
    yield from _sample_lines(state.samples)
    if distributions:
        yield ""
        yield f"{'column':<28}{'clips':>7}{'min':>11}{'p5':>11}{'median':>11}{'p95':>11}{'max':>11}"
        for row in state.distributions:
            figures = (row.minimum, row.p5, row.median, row.p95, row.maximum)
            yield f"{row.column:<28}{row.count:>7}" + "".join(f"{x:>11.4g}" for x in figures)


def _sample_lines(samples: SampleCounts) -> Iterator[str]:
    megabytes = samples.bytes / 1e6
    packed = f"{_time(samples.seconds)} in {samples.shards} shards, {megabytes:.1f} MB"
    yield f"samples   {samples.samples:>7}   {packed}"
    if samples.held:
        yield f"  held    {samples.held}: made, and waiting for their shards"
    for failure in samples.failed_by_code:
        yield f"  failed  {failure.count}: {failure.code}"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.1f} s"
