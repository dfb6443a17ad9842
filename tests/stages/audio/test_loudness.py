"""Levels against FFmpeg's own meters, on real files, whole and in the middle."""

from __future__ import annotations

import gc
import re
from fractions import Fraction
from pathlib import Path

import av
import av.error
import av.filter
import av.logging
import numpy as np
import pytest

from manifests.errors import UsageError
from stages.audio.bs1770 import integrated_loudness
from stages.audio.loudness import (
    LoudnessParameters,
    LoudnessRecord,
    LoudnessStage,
    Samples,
)
from stages.base.clip import NotApplicable
from stages.base.signals import Signals
from stages.media.blocks import AudioBlock
from stages.media.decode import read_audio
from stages.media.probe import probe

STAGE = LoudnessStage(LoudnessParameters())
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
REAL = [
    "audio_clipped_speech_derived.wav",  # 16 kHz mono, clipped
    "audio_speech_de_24bit.wav",
    "audio_speech_en_jfk.flac",
    "audio_sfx_rain.mp3",
    "multishot_bbb_480p_30s.mp4",  # 5.1
    "multishot_dissolve_multistream_nasa.mp4",  # 8 kHz
    "screen_webcam_60fps_speech.mp4",  # 48 kHz mono
    "talking_head_en_grid_f1.mpg",
]


def observe(block: AudioBlock, block_samples: int = 1024) -> Signals:
    observer = STAGE.observer(None)  # type: ignore[arg-type]  # the source is not looked at
    for first in range(0, len(block.samples), block_samples):
        start_s = block.start_s + first / block.rate_hz
        part = block.samples[first : first + block_samples]
        observer.audio(AudioBlock(start_s, block.rate_hz, part))
    end_s = block.start_s + len(block.samples) / block.rate_hz
    return observer.finish(block.start_s, end_s).signals


def summary(signals: Signals, start_s: float, end_s: float) -> LoudnessRecord:
    record = STAGE.summarise(signals, start_s, end_s, {})
    assert isinstance(record, LoudnessRecord)
    return record


def whole(block: AudioBlock) -> LoudnessRecord:
    end_s = block.start_s + len(block.samples) / block.rate_hz
    return summary(observe(block), block.start_s, end_s)


def mono(samples: Samples, rate_hz: int = 48_000, start_s: float = 0.0) -> AudioBlock:
    return AudioBlock(start_s, rate_hz, samples.astype(np.float32)[:, None])


def sine(duration_s: float, level: float, hz: float = 997.0, rate_hz: int = 48_000) -> Samples:
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (level * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


def ffmpeg_meter(block: AudioBlock, name: str, pattern: str) -> float:
    """What an FFmpeg filter prints at the end of a stretch of sound."""
    layout = LAYOUTS[block.samples.shape[1]]
    time_base = Fraction(1, block.rate_hz)
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    with av.logging.Capture(local=False) as lines:
        graph = av.filter.Graph()
        source = graph.add_abuffer(
            sample_rate=block.rate_hz, format="flt", layout=layout, time_base=time_base
        )
        meter, sink = graph.add(name), graph.add("abuffersink")
        source.link_to(meter)
        meter.link_to(sink)
        graph.configure()
        for first in range(0, len(block.samples), 4096):
            packed = np.ascontiguousarray(block.samples[first : first + 4096].reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = block.rate_hz, first, time_base
            graph.push(frame)
            _drain(graph)
        graph.push(None)
        _drain(graph)
        # volumedetect prints when it is freed.
        del graph, source, meter, sink
        gc.collect()
    av.logging.set_level(before)
    return float(re.findall(pattern, "".join(line[2] for line in lines))[-1])


def _drain(graph: av.filter.Graph) -> None:
    while True:
        try:
            graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def mean_volume_of(block: AudioBlock) -> float:
    return ffmpeg_meter(block, "volumedetect", r"mean_volume: (\S+) dB")


def integrated_of(block: AudioBlock) -> float:
    return ffmpeg_meter(block, "ebur128", r"I:\s+(\S+) LUFS")


def real_sound(clips: Path, file: str) -> AudioBlock:
    path = clips / file
    if not path.exists():
        pytest.skip("the real clips are not here")
    source = probe(str(path))
    start_s = max(0.0, source.audio_start_s or 0.0)
    return read_audio(str(path), source, start_s, min(source.duration_s, start_s + 20.0))


@pytest.mark.parametrize("file", REAL)
def test_whole_files_agree_with_ffmpeg(given_clips: Path, file: str) -> None:
    block = real_sound(given_clips, file)
    record = whole(block)
    # FFmpeg prints one decimal, hence 0.05 on top of what is promised.
    assert record.mean_volume_db == pytest.approx(mean_volume_of(block), abs=0.11)
    assert record.integrated_lufs == pytest.approx(integrated_of(block), abs=0.2)


@pytest.mark.parametrize("file", REAL)
def test_spans_in_the_middle_agree_with_ffmpeg(given_clips: Path, file: str) -> None:
    block = real_sound(given_clips, file)
    length_s = len(block.samples) / block.rate_hz
    start_s = block.start_s + 0.137 * length_s
    end_s = block.start_s + 0.907 * length_s
    first, last = (round((edge_s - block.start_s) * block.rate_hz) for edge_s in (start_s, end_s))
    cut = AudioBlock(start_s, block.rate_hz, block.samples[first:last])
    record = summary(observe(block), start_s, end_s)
    assert record.mean_volume_db == pytest.approx(mean_volume_of(cut), abs=0.15)
    assert record.integrated_lufs == pytest.approx(integrated_of(cut), abs=0.25)


def test_a_full_scale_sine_is_at_minus_3_lufs() -> None:
    # EBU Tech 3341: a stereo sine at -23 dBFS peak is at -23 LUFS; mono is 3 LU below stereo.
    stereo = np.repeat(sine(5.0, 10 ** (-23 / 20))[:, None], 2, axis=1)
    assert whole(AudioBlock(0.0, 48_000, stereo)).integrated_lufs == pytest.approx(-23.0, abs=0.1)
    record = whole(mono(sine(5.0, 1.0)))
    assert record.integrated_lufs == pytest.approx(-3.01, abs=0.1)
    assert record.mean_volume_db == pytest.approx(-3.01, abs=0.01)
    assert record.peak_db == pytest.approx(0.0, abs=0.01)
    assert record.bandwidth_hz == pytest.approx(997.0, abs=150.0)


def test_digital_silence_has_the_floors() -> None:
    record = whole(mono(np.zeros(96_000)))
    assert record.mean_volume_db == -91.0
    assert record.integrated_lufs == -70.0
    assert record.peak_db == -91.0
    assert record.silence_ratio == 1.0
    assert record.bandwidth_hz is None


def test_samples_beyond_full_scale_are_kept() -> None:
    record = whole(mono(sine(2.0, 1.8)))
    assert record.peak_db == pytest.approx(20 * np.log10(1.8), abs=0.01)
    assert record.mean_volume_db == pytest.approx(20 * np.log10(1.8) - 3.01, abs=0.01)


def test_clipping_is_the_share_at_full_scale() -> None:
    clipped = np.clip(sine(2.0, 2.0), -1.0, 1.0)
    assert whole(mono(clipped)).clipping_ratio == pytest.approx(2.0 / 3.0, abs=0.01)
    assert whole(mono(sine(2.0, 0.9))).clipping_ratio == 0.0


def test_silence_is_counted_in_time() -> None:
    sound = np.concatenate([sine(1.0, 0.5), np.zeros(48_000), sine(2.0, 0.5)])
    signals = observe(mono(sound))
    assert summary(signals, 0.0, 4.0).silence_ratio == pytest.approx(0.25, abs=0.02)
    # Time without any sound is silent too.
    assert summary(signals, 2.0, 6.0).silence_ratio == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("block_samples", [64, 1001, 300_000])
def test_the_length_of_blocks_does_not_matter(block_samples: int) -> None:
    noise = np.random.default_rng(3).normal(0.0, 0.1, (110_250, 2)).astype(np.float32)
    block = AudioBlock(1.37, 22_050, noise)
    expected = observe(block, 4096)
    signals = observe(block, block_samples)
    assert signals.start_s == expected.start_s
    for name, values in expected.series.items():
        np.testing.assert_allclose(signals.series[name], values, rtol=1e-9, err_msg=name)


def test_gaps_hold_no_samples_and_overlaps_count_once() -> None:
    tone = sine(1.0, 0.5)
    observer = STAGE.observer(None)  # type: ignore[arg-type]
    observer.audio(mono(tone, start_s=0.0))
    observer.audio(mono(tone[:24_000], start_s=0.5))  # all of it heard before
    observer.audio(mono(tone, start_s=2.0))
    signals = observer.finish(0.0, 3.0).signals
    samples = signals.series["samples"]
    assert samples.sum() == 96_000
    assert not samples[20:40].any()
    assert np.isnan(signals.series["peak"][20:40]).all()
    assert summary(signals, 0.0, 3.0).mean_volume_db == pytest.approx(-9.03, abs=0.02)
    assert isinstance(STAGE.summarise(signals, 1.2, 1.8, {}), NotApplicable)


def test_rounded_block_times_are_no_gaps() -> None:
    tone = sine(2.0, 0.5)
    observer = STAGE.observer(None)  # type: ignore[arg-type]
    for first in range(0, len(tone), 1024):
        observer.audio(mono(tone[first : first + 1024], start_s=round(first / 48_000, 3)))
    assert observer.finish(0.0, 2.0).signals.series["samples"].sum() == len(tone)


def test_the_bandwidth_is_that_of_the_loud_parts() -> None:
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.normal(size=48_000 * 4))
    spectrum[np.fft.rfftfreq(48_000 * 4, 1 / 48_000) > 6_000] = 0
    noise = np.fft.irfft(spectrum)
    noise[:48_000] = 1e-5 * rng.normal(size=48_000)  # a pause with hiss up to 24 kHz
    assert whole(mono(noise * 0.2)).bandwidth_hz == pytest.approx(6_000, abs=150)


def test_the_relative_gate_leaves_quiet_blocks_out() -> None:
    loud, quiet = np.full(200, 0.01), np.full(200, 0.0001)
    assert integrated_loudness(np.concatenate([loud, quiet])) == pytest.approx(-20.7, abs=0.1)
    assert integrated_loudness(np.zeros(0)) == -70.0


def test_no_sound_gives_empty_signals() -> None:
    observer = STAGE.observer(None)  # type: ignore[arg-type]
    signals = observer.finish(0.0, 5.0).signals
    assert set(signals.series) == set(STAGE.series)
    assert isinstance(STAGE.summarise(signals, 0.0, 5.0, {}), NotApplicable)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(UsageError) as error:
        LoudnessStage(LoudnessParameters(backend="ffmpeg"))
    assert error.value.code == "unknown_backend"


@pytest.mark.parametrize("rate_hz", [2_000, 11_025, 192_000])
def test_odd_rates_and_broken_samples_give_finite_figures(rate_hz: int) -> None:
    tone = sine(3.0, 0.5, hz=397.0, rate_hz=rate_hz)
    tone[rate_hz : rate_hz + 5] = np.nan
    record = whole(mono(tone, rate_hz))
    assert record.mean_volume_db == pytest.approx(-9.03, abs=0.05)
    assert record.integrated_lufs == pytest.approx(-9.7, abs=1.0)
    assert record.peak_db == pytest.approx(-6.02, abs=0.05)
