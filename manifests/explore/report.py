"""The report: one HTML file that shows the funnel, the distributions, what failed, and clips.

It holds everything it shows, so it can be mailed, and opens without a network.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import duckdb
import jinja2

from manifests.explore.funnel import Amount, Distribution, Funnel, funnel
from manifests.policy.decide import FAILED_SUFFIX, NO_VALUE_SUFFIX
from manifests.policy.gates import Gate, Threshold, thresholds
from manifests.store.store import Store

REPORT_FILE = "report.html"

_CHART_WIDTH = 300.0
_CHART_HEIGHT = 84.0
_BAR_GAP = 1.0


@dataclasses.dataclass(frozen=True)
class Player:
    """A clip to play in the report: a small MP4 and what is known of the clip."""

    clip_id: str
    title: str
    state: Literal["keep", "reject", "pending"]
    reasons: Sequence[str]
    caption: str | None
    mp4: bytes


def write_report(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    gates: Sequence[Gate],
    *,
    players: Sequence[Player] = (),
    state: Funnel | None = None,
) -> None:
    """Write `OUT/report.html`.

    Args:
        store: OUT.
        connection: from `manifests.store.view.connect`.
        gates: the policy; plain comparisons are marked in the histograms.
        players: clips to play.
        state: the funnel, if it is known already.

    Raises:
        UsageError: a gate is wrong.
        StorageError: `storage_unwritable`.
    """
    page = render_report(
        store.storage.root,
        state if state is not None else funnel(connection),
        gates,
        thresholds(connection, gates),
        players,
    )
    content = page.encode()
    # A run that changes nothing must not look as if it had.
    if not store.storage.exists(REPORT_FILE) or store.storage.read(REPORT_FILE) != content:
        store.storage.write(REPORT_FILE, content)


def render_report(
    out: str,
    state: Funnel,
    gates: Sequence[Gate],
    marks: Sequence[Threshold],
    players: Sequence[Player],
) -> str:
    """The report as HTML.

    Args:
        out: OUT, as the title shows it.
        state: the numbers.
        gates: the policy.
        marks: comparisons to mark in the histograms.
        players: clips to play.
    """
    listed = len(state.failed_files)
    return _template().render(
        out=out,
        funnel=state,
        parts=_parts(state),
        gates=_gate_lines(state, gates),
        charts=_charts(state, marks),
        unlisted_files=state.sources.failed.count - listed,
        players=[
            (heading, [_PlayerView.of(player) for player in players if player.state == key])
            for key, heading in (("keep", "Kept"), ("reject", "Rejected"), ("pending", "Pending"))
        ],
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of the bar that shows where the clips went."""

    name: str
    heading: str
    amount: Amount
    share: float


def _parts(state: Funnel) -> list[_Part]:
    amounts = (
        ("keep", "kept", state.kept),
        ("reject", "rejected", state.rejected),
        ("pending", "pending", state.pending),
        ("undecided", "not decided yet", state.undecided),
    )
    total = state.clips.seconds or 1.0
    return [
        _Part(name, heading, amount, amount.seconds / total)
        for name, heading, amount in amounts
        if amount.count
    ]


@dataclasses.dataclass(frozen=True)
class _GateLine:
    """A gate's row in the table: its rule or what else it rejects for, and what it takes away."""

    name: str
    sql: str
    reason: str
    together: Amount
    alone: Amount
    share: float


def _gate_lines(state: Funnel, gates: Sequence[Gate]) -> list[_GateLine]:
    nothing = Amount(0, 0.0)
    counted = {count.gate: count for count in state.rejected_by}
    rules = {gate.name: gate.sql for gate in gates}
    total = state.clips.seconds or 1.0
    lines = []
    for name in [*counted, *(name for name in sorted(rules) if name not in counted)]:
        count = counted.get(name)
        together = count.together if count else nothing
        alone = count.alone if count else nothing
        lines.append(
            _GateLine(
                name, rules.get(name, ""), _reason(name), together, alone, together.seconds / total
            )
        )
    return lines


def _reason(name: str) -> str:
    """Why a gate rejects under a name with a suffix; empty for its own name."""
    for suffix, reason in (
        (FAILED_SUFFIX, "what it reads could not be measured"),
        (NO_VALUE_SUFFIX, "what it reads has no value"),
    ):
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}: {reason}"
    return ""


@dataclasses.dataclass(frozen=True)
class _Bar:
    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A gate's threshold; `x` is None where it lies outside the drawn range."""

    text: str
    x: float | None


@dataclasses.dataclass(frozen=True)
class _Chart:
    """A histogram ready to draw."""

    distribution: Distribution
    bars: list[_Bar]
    marks: list[_Mark]
    width: float = _CHART_WIDTH
    height: float = _CHART_HEIGHT


def _charts(state: Funnel, marks: Sequence[Threshold]) -> list[_Chart]:
    """Histograms, those with thresholds first."""
    charts = []
    for distribution in state.distributions:
        own = [mark for mark in marks if mark.column.lower() == distribution.column.lower()]
        charts.append(
            _Chart(distribution, _bars(distribution), [_mark(mark, distribution) for mark in own])
        )
    return sorted(charts, key=lambda chart: not chart.marks)


def _bars(distribution: Distribution) -> list[_Bar]:
    tallest = max(distribution.counts) or 1
    width = _CHART_WIDTH / len(distribution.counts)
    bars = []
    for index, count in enumerate(distribution.counts):
        if count:
            # A bin that is not empty can be seen, however few it holds.
            height = max(1.0, _CHART_HEIGHT * count / tallest)
            bars.append(
                _Bar(
                    round(index * width, 2),
                    round(_CHART_HEIGHT - height, 2),
                    round(width - _BAR_GAP, 2),
                    round(height, 2),
                )
            )
    return bars


def _mark(threshold: Threshold, distribution: Distribution) -> _Mark:
    low, high = distribution.edges[0], distribution.edges[-1]
    inside = low <= threshold.value <= high
    x = _CHART_WIDTH * (threshold.value - low) / (high - low) if inside else None
    text = f"{threshold.gate}: {threshold.operator} {_number(threshold.value)}"
    return _Mark(text, None if x is None else round(x, 2))


@dataclasses.dataclass(frozen=True)
class _PlayerView:
    player: Player
    source: str

    @staticmethod
    def of(player: Player) -> _PlayerView:
        data = base64.b64encode(player.mp4).decode()
        return _PlayerView(player, f"data:video/mp4;base64,{data}")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("manifests.explore"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=_count, length=_length, size=_size, share=_share, number=_number
    )
    return environment.get_template("report.html")


def _count(value: int) -> str:
    return f"{value:,}"


def _length(seconds: float) -> str:
    """A length for people: the two largest units that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 60:
        return f"{minutes:.1f} min"
    return f"{minutes / 60:,.1f} h"


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float) -> str:
    return f"{value:.4g}"
