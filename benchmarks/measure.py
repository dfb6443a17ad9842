"""What measuring costs, beside what a user would otherwise run on the same file.

    python -m benchmarks.measure VIDEO... [--repeat N] [--long N]

Per file, in one run: CPU seconds, wall seconds and peak memory of the whole measure phase (probe,
one decode with every signal stage, clips, sync), of bare PyAV decode, of decode + scale to the
proxy, and of PySceneDetect's AdaptiveDetector with its defaults. Everything runs warm: Ray's and
Python's start-up and imports are not counted. `--long N` also measures a copy of the first file
that is N times as long, to see whether memory grows with length.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import psutil

from curation.config import load_configuration
from curation.engine.engine import Engine
from curation.engine.tasks import Task
from curation.inputs import list_inputs
from curation.job import Job, open_store
from curation.phases.clip_stages import run_clip_stages
from curation.phases.cut import cut_clips
from curation.phases.decode import decode_units
from curation.phases.probe import probe_sources
from curation.resolve import resolve
from manifests.store.lease import Lease
from manifests.store.output import Output


@dataclasses.dataclass(frozen=True)
class Cost:
    """CPU seconds, wall seconds and peak resident megabytes."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def bare_decode(uri: str) -> None:
    """Every picture decoded by PyAV, nothing done with it."""
    with av.open(uri) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def decode_and_scale(uri: str) -> None:
    """Every picture decoded and scaled to the proxy that the stages see."""
    from stages.media.probe import probe  # noqa: PLC0415
    from stages.media.proxy import ProxyScaler  # noqa: PLC0415

    scaler = ProxyScaler(probe(uri))
    with av.open(uri) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            scaler.planes(frame)


def stages_alone(uri: str) -> None:
    """The one decode with every signal stage watching: no job, no tables, no Ray."""
    from stages.media.probe import probe  # noqa: PLC0415
    from stages.run.unit import UnitTask, measure_unit  # noqa: PLC0415

    configuration = load_configuration(None, None, [])
    resolved = resolve(configuration)
    source = probe(uri)
    stages = {name: resolved.calls[name] for name in resolved.signal_stages}
    end_s = source.duration_s
    task = UnitTask("source", uri, source, 0, 0.0, end_s, True, True, stages, resolved.unit, 1, 1.0)
    measure_unit(task)


def pyscenedetect(uri: str) -> None:
    """PySceneDetect alone, as its documentation calls it."""
    from scenedetect import AdaptiveDetector, detect  # noqa: PLC0415

    detect(uri, AdaptiveDetector())


PEERS: dict[str, Callable[[str], None]] = {
    "bare PyAV decode": bare_decode,
    "decode + scale to proxy": decode_and_scale,
    "all signal stages, one process": stages_alone,
    "PySceneDetect, defaults": pyscenedetect,
}


def peer_cost(name: str, uri: str) -> Cost:
    """A peer's cost in a process of its own, after its imports."""
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", "--peer", name, uri],
        capture_output=True,
        text=True,
        check=True,
    )
    return Cost(**json.loads(out.stdout.splitlines()[-1]))


def run_peer(name: str, uri: str) -> None:
    """In the peer's process: run once for the imports on nothing, then for the clock."""
    import scenedetect  # noqa: F401, PLC0415

    import stages.audio.speech  # noqa: PLC0415
    import stages.media.decode  # noqa: PLC0415
    import stages.run.unit  # noqa: PLC0415

    stages.audio.speech._detector()
    cv2.setNumThreads(1)
    if name == "PySceneDetect, defaults":
        cv2.setNumThreads(-1)
    wall, cpu = time.perf_counter(), time.process_time()
    PEERS[name](uri)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cost = Cost(time.process_time() - cpu, time.perf_counter() - wall, peak)
    print(json.dumps(dataclasses.asdict(cost)))


def measure_cost(uri: str, engine: Engine) -> Cost:
    """The whole measure phase on one file into a fresh folder, the workers being warm."""
    configuration = load_configuration(None, None, [])
    with tempfile.TemporaryDirectory() as out:
        storage, store = open_store(out)
        with Lease(storage) as lease:
            resolved = resolve(configuration)
            output = Output(out, storage, store, lease, resolved.selection)
            job = Job(configuration, resolved, output, engine)
            files = list_inputs([uri], []).files
            with _Watch() as watch:
                cpu, wall = _tree_cpu_s(), time.perf_counter()
                probe_sources(job, files)
                decode_units(job)
                cut_clips(job)
                run_clip_stages(job)
                return Cost(_tree_cpu_s() - cpu, time.perf_counter() - wall, watch.peak_mb)


def _tree() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _tree_cpu_s() -> float:
    total = 0.0
    for process in _tree():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


class _Watch:
    """The largest decoding child's resident memory while it runs."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            for process in _tree():
                try:
                    if "curation.engine.child" in process.cmdline():
                        self.peak_mb = max(self.peak_mb, process.memory_info().rss / 2**20)
                except psutil.Error:
                    continue


def repeated(uri: str, times: int, folder: Path) -> Path:
    """A copy of a file that plays it several times over; packets are copied, not encoded."""
    target = folder / f"{Path(uri).stem}_x{times}.mp4"
    with av.open(str(target), "w") as output:
        streams: dict[int, av.stream.Stream] = {}
        shift_s = 0.0
        for _ in range(times):
            with av.open(uri) as container:
                used = [*container.streams.video[:1], *container.streams.audio[:1]]
                for stream in used:
                    if stream.index not in streams:
                        streams[stream.index] = output.add_stream_from_template(stream)
                for packet in container.demux(used):
                    if packet.dts is None or packet.pts is None or packet.time_base is None:
                        continue
                    ticks = math.ceil(shift_s / packet.time_base)
                    packet.pts += ticks
                    packet.dts += ticks
                    packet.stream = streams[packet.stream.index]
                    output.mux(packet)
                assert container.duration is not None
                shift_s += container.duration / av.time_base
    return target


def median_cost(costs: list[Cost]) -> Cost:
    """The median of every figure."""
    return Cost(
        *(
            statistics.median(getattr(cost, f.name) for cost in costs)
            for f in dataclasses.fields(Cost)
        )
    )


def _warm(engine: Engine, uri: str) -> None:
    """Have every worker's child import and load what the phase uses."""
    for _ in range(2):
        tasks = [Task(warm_up, uri, uri) for _ in range(8)]
        for outcome in engine.run(tasks):
            if outcome.error is not None:
                raise outcome.error
    with tempfile.TemporaryDirectory():
        measure_cost(uri, engine)


def warm_up(_: str) -> None:
    """In the child: imports, and long enough for every worker to take one."""
    import stages.run.clip  # noqa: PLC0415
    import stages.run.unit  # noqa: F401, PLC0415

    time.sleep(0.3)


def main() -> None:
    """Measure every file and print one table each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--long", type=int, default=0)
    parser.add_argument("--peer", nargs=2, metavar=("NAME", "VIDEO"))
    arguments = parser.parse_args()
    if arguments.peer:
        run_peer(*arguments.peer)
        return
    configuration = load_configuration(None, None, [])
    with Engine(configuration.engine, configuration.decode, None) as engine:
        _warm(engine, arguments.videos[0])
        for video in arguments.videos:
            rows = {"measure phase": [], **{name: [] for name in PEERS}}
            for _ in range(arguments.repeat):
                rows["measure phase"].append(measure_cost(video, engine))
                for name in PEERS:
                    rows[name].append(peer_cost(name, video))
            _print_table(video, {name: median_cost(costs) for name, costs in rows.items()})
        if arguments.long:
            with tempfile.TemporaryDirectory() as folder:
                video = arguments.videos[0]
                copy = repeated(video, arguments.long, Path(folder))
                once, often = measure_cost(video, engine), measure_cost(str(copy), engine)
                print(
                    f"\nPeak memory of a decoding child: {once.peak_mb:.0f} MB on"
                    f" {Path(video).name}, {often.peak_mb:.0f} MB on {arguments.long} times its"
                    f" length ({once.wall_s:.1f} s and {often.wall_s:.1f} s wall)"
                )


def _print_table(video: str, costs: dict[str, Cost]) -> None:
    scale, scenes = costs["decode + scale to proxy"], costs["PySceneDetect, defaults"]
    print(f"\n{Path(video).name}\n")
    print("| | CPU s | wall s | peak MB | CPU / decode + scale | wall / PySceneDetect |")
    print("|---|---|---|---|---|---|")
    for name, cost in costs.items():
        print(
            f"| {name} | {cost.cpu_s:.2f} | {cost.wall_s:.2f} | {cost.peak_mb:.0f}"
            f" | {cost.cpu_s / scale.cpu_s:.2f} | {cost.wall_s / scenes.wall_s:.2f} |"
        )


if __name__ == "__main__":
    main()
