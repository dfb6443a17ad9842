"""Measure one video, and print what its clips hold and how loud it is along its time.

python examples/measure_file.py video.mp4
"""

from __future__ import annotations

import sys

import numpy as np

import twinreel


def main(path: str) -> None:
    """Print a line a clip, and a bar for each half second of sound."""
    found = twinreel.measure(path, "motion", "faces", "loudness")
    print(f"{found.uri}: {found.end_s - found.start_s:.2f} s, {found.source.video_codec}")
    for clip in found.clips:
        motion, faces = clip["motion"], clip["faces"]
        print(
            f"  {clip['start_s']:7.2f} to {clip['end_s']:7.2f} s:"
            f" motion {motion['score_px_s']} px/s, faces {faces['kind']}"
        )
    signals = found.signals.get("loudness")
    if signals is None:
        print("no sound")
        return
    power = signals.series["square_sum"] / np.maximum(signals.series["samples"], 1.0)
    levels_db = 10.0 * np.log10(np.maximum(np.nan_to_num(power), 1e-9))
    every = max(1, round(signals.rate_hz / 2))
    for index in range(0, len(levels_db), every):
        bar = "#" * round((levels_db[index] + 90.0) / 2)
        print(f"  {signals.start_s + index / signals.rate_hz:7.2f} s {levels_db[index]:6.1f} {bar}")


if __name__ == "__main__":
    main(*sys.argv[1:])
