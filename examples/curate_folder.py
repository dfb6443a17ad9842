"""Curate a folder of videos, and see what was rejected and why.

python examples/curate_folder.py ~/videos out
"""

from __future__ import annotations

import sys

import twinreel


def main(raw: str, out: str) -> None:
    """Curate `raw` into `out`, then decide again with a stricter gate: that decodes nothing."""
    summary = twinreel.curate(raw, out, settings={"split.held_out_share": 0.0})
    print(f"{summary.funnel.kept.count} clips kept, {summary.funnel.rejected.count} rejected")
    for gate in summary.funnel.rejected_by:
        print(f"  {gate.gate}: {gate.together.count}, {gate.alone.count} of them by it alone")

    with twinreel.open_dataset(out) as dataset:
        loud = "quantile_cont(loudness.mean_volume_db, 0.5)"
        [row] = dataset.sql(f"SELECT {loud} AS db FROM dataset WHERE state = 'keep'").to_pylist()
        for clip in dataset.clips("state = 'reject'").to_pylist()[:5]:
            print(f"  {clip['uri']} at {clip['start_s']:.2f} s: {', '.join(clip['rejected_by'])}")
    if row["db"] is None:
        return
    gate = f"loudness.mean_volume_db >= {row['db']!r}"
    louder = twinreel.select(out, settings={"gates.volume": gate})
    print(f"{louder.funnel.kept.count} clips kept where {gate}")


if __name__ == "__main__":
    main(*sys.argv[1:])
