from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame

from curation.demo_bucket.clips import Shape, flash_beep_clip
from curation.demo_bucket.render import AudioTrack, VideoFormat, render_audio, render_video
from manifests.errors import MediaError
from stages.media.audio import audio_length, conformed_audio, downmix
from stages.media.blocks import Margins, SourceFormat
from stages.media.conform import conformed_frames, conformed_size, deinterlaced, sample_and_hold
from stages.media.decode import decode_frames
from stages.media.heartbeat import heard_by
from stages.media.probe import probe

FPS, FRAMES, RATE_HZ = 24, 121, 16_000
SAMPLES = 80_667
SMALL_AREA_PX = 160 * 90
HALF_FRAME_S = 0.5 / FPS
Image = npt.NDArray[np.uint8]


NO_MARGINS = Margins()


def conform(
    path: str | Path,
    start_s: float = 0.0,
    *,
    margins_px: Margins = NO_MARGINS,
    area_px: int = SMALL_AREA_PX,
    frames: int = FRAMES,
) -> Iterator[Image]:
    """Conformed pictures as uint8 [height, width, 3]."""
    for frame in conformed_frames(
        str(path),
        probe(str(path)),
        start_s,
        margins_px=margins_px,
        area_px=area_px,
        frames=frames,
        fps=FPS,
        pixel_format="rgb24",
    ):
        yield np.asarray(frame.to_ndarray(), np.uint8)


def sound_of(path: str | Path, start_s: float = 0.0) -> npt.NDArray[np.float32]:
    return conformed_audio(
        str(path),
        probe(str(path)),
        start_s,
        float("inf"),
        samples=SAMPLES,
        rate_hz=RATE_HZ,
        channels=1,
    )[:, 0]


# --- Time -----------------------------------------------------------------------------------------

TINY = Shape(width=192, height=108)
TIMINGS = {
    "24 fps": (dataclasses.replace(TINY, fps=24), 0),
    "25 fps": (dataclasses.replace(TINY, fps=25), 0),
    "30 fps": (dataclasses.replace(TINY, fps=30), 0),
    "ntsc": (dataclasses.replace(TINY, fps=30_000 / 1001), 0),
    "60 fps": (dataclasses.replace(TINY, fps=60), 0),
    "variable rate": (dataclasses.replace(TINY, fps=None), 0),
    "late video": (dataclasses.replace(TINY, fps=30, video_start_s=0.5), 0),
    "rotated": (dataclasses.replace(TINY, fps=30, video=VideoFormat(rotation_deg=270)), 3),
}


@pytest.mark.parametrize("start_s", [0.0, 0.3711])
@pytest.mark.parametrize("timing", TIMINGS)
def test_a_flash_and_a_beep_stay_together(tmp_path: Path, timing: str, start_s: float) -> None:
    shape, upright_turn = TIMINGS[timing]
    path = tmp_path / "flash.mp4"
    truth = flash_beep_clip(path, shape=shape, upright_turn=upright_turn)
    luma = [float(image.mean()) for image in conform(path, start_s)]
    loud = np.abs(sound_of(path, start_s)) > 0.08
    flash_s = int(np.argmax(np.asarray(luma) > 220)) / FPS
    beep_s = int(np.argmax(loud)) / RATE_HZ
    assert len(luma) == FRAMES
    assert abs(flash_s - beep_s) <= HALF_FRAME_S + 1e-3
    assert truth.beep_s is not None
    assert beep_s == pytest.approx(truth.beep_s - start_s, abs=1e-3)


def test_each_tick_shows_the_last_picture_before_half_a_tick_after_it() -> None:
    timed = [(0.0, "a"), (0.02, "b"), (0.0209, "c"), (0.2, "d")]
    shown = list(sample_and_hold(timed, 0.0, frames=6, fps=24))
    # Half a tick after tick 0 are 20.83 ms: c belongs to tick 1 already.
    assert shown == ["b", "c", "c", "c", "c", "d"]


def test_pictures_on_the_border_of_two_ticks_do_not_flicker() -> None:
    timed = [(index / 48 + (1e-9 if index % 3 else -1e-9), index) for index in range(48)]
    assert list(sample_and_hold(timed, 0.0, frames=20, fps=24)) == list(range(0, 40, 2))


def test_pictures_of_the_same_rate_come_once_each() -> None:
    timed = [(7.3 + index / 24, index) for index in range(200)]
    assert list(sample_and_hold(timed, 7.3, frames=121, fps=24)) == list(range(121))


def test_every_picture_is_a_sign_of_life(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    flash_beep_clip(path, shape=dataclasses.replace(TINY, fps=60))
    beats = []
    frames = conformed_frames(
        str(path),
        probe(str(path)),
        0.5,
        margins_px=NO_MARGINS,
        area_px=SMALL_AREA_PX,
        frames=24,
        fps=FPS,
        pixel_format="yuv420p",
    )
    with heard_by(lambda: beats.append(1)):
        assert len(list(frames)) == 24
    assert len(beats) >= 58


# --- Geometry -------------------------------------------------------------------------------------


def source_of(width: int, height: int) -> SourceFormat:
    fields: dict[str, object] = {field.name: None for field in dataclasses.fields(SourceFormat)}
    return SourceFormat(**{**fields, "width": width, "height": height})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "size",
    [(1280, 720), (1920, 1080), (1080, 1920), (854, 480), (720, 720), (2048, 858), (641, 359)],
)
def test_the_area_is_met_and_the_aspect_kept(size: tuple[int, int]) -> None:
    width, height = conformed_size(source_of(*size), Margins(), 518_400)
    assert width % 2 == height % 2 == 0
    assert width * height == pytest.approx(518_400, rel=0.02)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)


def test_margins_count_before_the_area() -> None:
    assert conformed_size(source_of(1280, 720), Margins(left=160, right=160), 518_400) == (832, 624)


def test_margins_as_large_as_the_picture_are_an_error() -> None:
    with pytest.raises(MediaError) as caught:
        conformed_size(source_of(640, 360), Margins(top=180, bottom=180), 518_400)
    assert caught.value.code == "no_picture_left"


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_no_margin_is_left_and_pictures_stand_upright(tmp_path: Path, rotation_deg: int) -> None:
    margins_px = Margins(top=21, bottom=10, left=33, right=7)
    displayed = np.zeros((180, 320, 3), np.uint8)
    displayed[21:170, 33:313] = 235
    displayed[60:100, 60:120] = (220, 30, 30)  # red towards the upper left
    stored = np.ascontiguousarray(np.rot90(displayed, -rotation_deg // 90))
    path = tmp_path / "bars.mp4"
    frames = [(index / 24, stored) for index in range(4)]
    lossless = VideoFormat(rotation_deg=rotation_deg, options={"crf": "1"})
    render_video(path, frames, video=lossless)
    image = next(conform(path, margins_px=margins_px, area_px=320 * 180, frames=2))
    height, width = image.shape[:2]
    assert width * height == pytest.approx(320 * 180, rel=0.02)
    assert width / height == pytest.approx(280 / 149, rel=0.02)
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    assert min(int(edge.min()) for edge in edges) > 215
    red = (image[..., 0] > 180) & (image[..., 1] < 80)
    rows, columns = np.nonzero(red)
    assert rows.mean() / height == pytest.approx((80 - 21) / 149, abs=0.02)
    assert columns.mean() / width == pytest.approx((90 - 33) / 280, abs=0.02)


def test_wide_pixels_become_square(tmp_path: Path) -> None:
    picture = np.full((180, 240, 3), 40, np.uint8)
    picture[60:120, 90:150] = 230  # 60 x 60 stored, 80 x 60 displayed
    path = tmp_path / "wide.mov"
    frames = [(index / 24, picture) for index in range(4)]
    render_video(path, frames, video=VideoFormat(pixel_aspect=Fraction(4, 3)))
    image = next(conform(path, area_px=320 * 180, frames=2))
    assert image.shape == (180, 320, 3)
    rows, columns = np.nonzero(image[..., 0] > 135)
    assert np.ptp(columns) + 1 == pytest.approx(80, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(60, abs=2)


def test_an_interlaced_source_is_combed_no_more(given_clips: Path) -> None:
    path = str(given_clips / "odd_interlaced_tff_mpeg2.mkv")
    source = probe(path)
    images = list(conform(path, 2.0, area_px=518_400, frames=12))
    assert images[0].shape == (540, 960, 3)  # 720 x 480 with pixels of 32:27

    def combing(luma: npt.NDArray[np.float64]) -> float:
        """How much lines differ from both their neighbours, against lines two apart."""
        middle = luma[1:-1]
        spikes = np.minimum(np.abs(middle - luma[:-2]), np.abs(middle - luma[2:]))
        return float(np.mean(spikes * (np.abs(luma[:-2] - luma[2:]) < 10)))

    def luma_of(frame: VideoFrame) -> npt.NDArray[np.float64]:
        # The counter, not the burnt-in name of the field, which is combed on purpose.
        return np.asarray(frame.to_ndarray(format="gray"), np.float64)[60:430, 100:620]

    before = [(time_s, frame) for time_s, frame in decode_frames(path, source, 2.0, 2.5)]
    combed = max(combing(luma_of(frame)) for _, frame in before)
    after = list(deinterlaced(before))
    assert [time_s for time_s, _ in after] == [time_s for time_s, _ in before]
    assert max(combing(luma_of(frame)) for _, frame in after) < 0.1 * combed


# --- Colours --------------------------------------------------------------------------------------

CHART = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 180, 40), (128, 128, 128), (255, 255, 255)]


@dataclasses.dataclass(frozen=True)
class ChartFormat:
    size: tuple[int, int]
    pixel_format: str
    matrix: int
    full_range: bool
    tagged: bool

    def write(self, path: Path) -> None:
        width, height = self.size
        colour_range = 2 if self.full_range else 1
        picture = np.zeros((height, width, 3), np.uint8)
        for index, colour in enumerate(CHART):
            picture[:, index * width // len(CHART) :] = colour
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = width, height, self.pixel_format
            if self.tagged:
                stream.codec_context.colorspace = self.matrix
            stream.codec_context.color_range = colour_range
            frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=self.pixel_format,
                dst_colorspace=self.matrix,
                dst_color_range=colour_range,
            )
            for index in range(3):
                frame.pts, frame.time_base = index, Fraction(1, 24)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


@pytest.mark.parametrize(
    "chart",
    [
        ChartFormat((960, 540), "yuv420p", 1, False, True),
        ChartFormat((960, 540), "yuv420p", 5, False, True),
        ChartFormat((480, 270), "yuv420p", 5, False, False),
        ChartFormat((1280, 720), "yuv420p", 1, False, False),
        ChartFormat((480, 270), "yuvj420p", 5, True, False),
        ChartFormat((480, 270), "yuv420p", 1, True, True),
        ChartFormat((480, 270), "yuv422p10le", 9, False, True),
    ],
    ids=str,
)
def test_colours_come_out_as_they_went_in(tmp_path: Path, chart: ChartFormat) -> None:
    path = tmp_path / "chart.mp4"
    chart.write(path)
    source = probe(str(path))
    assert source.full_range is chart.full_range
    frame = next(
        conformed_frames(
            str(path),
            source,
            0.0,
            margins_px=NO_MARGINS,
            area_px=480 * 270,
            frames=1,
            fps=FPS,
            pixel_format="yuv420p",
        )
    )
    rgb = next(conform(path, area_px=480 * 270, frames=1))
    for index, colour in enumerate(CHART):
        column = (2 * index + 1) * frame.width // (2 * len(CHART))
        assert limited_bt709(frame, frame.height // 2, column) == pytest.approx(colour, abs=5)
        assert tuple(rgb[rgb.shape[0] // 2, column].tolist()) == pytest.approx(colour, abs=5)


def limited_bt709(frame: VideoFrame, row: int, column: int) -> tuple[float, float, float]:
    """A pixel's red, green and blue (0..255) by ITU-R BT.709's own equations."""
    luma, blue_difference, red_difference = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        for plane in frame.planes
    )
    y = (float(luma[row, column]) - 16) / 219
    u = (float(blue_difference[row // 2, column // 2]) - 128) / 224
    v = (float(red_difference[row // 2, column // 2]) - 128) / 224
    red, blue = y + 1.5748 * v, y + 1.8556 * u
    return red * 255, (y - 0.2126 * red - 0.0722 * blue) / 0.7152 * 255, blue * 255


@pytest.mark.parametrize(
    "name", ["odd_hevc_10bit_testsrc.mp4", "sign_language_no_audio.mkv", "derived_mjpeg_pcm.avi"]
)
def test_deep_and_full_range_files_conform(given_clips: Path, name: str) -> None:
    images = list(conform(given_clips / name, area_px=518_400, frames=6))
    height, width = images[0].shape[:2]
    assert len(images) == 6
    assert width % 2 == height % 2 == 0
    assert width * height == pytest.approx(518_400, rel=0.02)


# --- Sound ----------------------------------------------------------------------------------------


def test_the_length_is_that_of_the_pictures() -> None:
    assert audio_length(FRAMES, FPS, RATE_HZ) == SAMPLES


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("start_s", [0.0, 0.25037])
def test_samples_lie_where_they_did(tmp_path: Path, rate_hz: int, start_s: float) -> None:
    # A sum of tones that every rate can hold, and that is unlike itself at any other moment.
    def signal(times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        tones = [np.sin(2 * np.pi * (173.0 * (k + 1) + 31.0 * k * k) * times_s) for k in range(8)]
        return np.asarray(0.1 * np.sum(tones, axis=0))

    path = tmp_path / "tones.wav"
    written = signal(np.arange(6 * rate_hz) / rate_hz).astype(np.float32)
    render_audio(path, AudioTrack(written, rate_hz=rate_hz, codec="pcm_s16le"))
    heard = sound_of(path, start_s)
    assert heard.shape == (SAMPLES,)
    expected = signal(start_s + np.arange(SAMPLES) / RATE_HZ)
    # Half a sample of the profile's rate is 31 microseconds: at 3 kHz a phase of 0.6.
    inner = slice(200, None)
    assert np.corrcoef(heard[inner], expected[inner])[0, 1] > 0.9
    late = [np.dot(np.roll(expected, shift)[inner], heard[inner]) for shift in (-2, -1, 0, 1, 2)]
    assert int(np.argmax(late)) == 2
    # From a start in the middle of the sound the filter has no edge to ring at.
    if start_s:
        assert np.max(np.abs(heard[:200])) < 1.05 * np.max(np.abs(expected))


@pytest.mark.parametrize(
    "name", ["multishot_bbb_480p_30s.mp4", "multishot_dissolve_multistream_nasa.mp4"]
)
def test_surround_and_low_rates_conform(given_clips: Path, name: str) -> None:
    heard = sound_of(given_clips / name, 1.0)
    assert heard.shape == (SAMPLES,)
    assert 0.001 < float(np.sqrt(np.mean(heard**2))) < 0.5
    assert float(np.max(np.abs(heard))) <= 1.0


def test_downmix_is_the_recommendation_s() -> None:
    surround = np.eye(6, dtype=np.float32)
    half = 0.5**0.5
    left, right = downmix(surround, 2).T
    assert left == pytest.approx([1, 0, half, 0, half, 0], abs=1e-6)
    assert right == pytest.approx([0, 1, half, 0, 0, half], abs=1e-6)
    assert downmix(surround, 1)[:, 0] == pytest.approx((left + right) / 2)
    assert downmix(np.ones((3, 2), np.float32), 1)[:, 0] == pytest.approx([1, 1, 1])


def test_sound_past_full_scale_is_turned_down_as_a_whole(tmp_path: Path) -> None:
    times_s = np.arange(6 * 16_000) / 16_000
    loud = (1.6 * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32)
    path = tmp_path / "loud.wav"
    render_audio(path, AudioTrack(loud, rate_hz=16_000, codec="pcm_f32le"))
    heard = sound_of(path)
    assert float(np.max(np.abs(heard))) == pytest.approx(1.0, abs=1e-3)
    assert float(np.sqrt(np.mean(heard**2))) == pytest.approx(0.5**0.5, rel=0.01)


def test_a_clip_before_its_sound_starts_with_silence(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    tone = 0.5 * np.ones(5 * 16_000, np.float32)
    frames = [(index / 24, np.zeros((36, 64, 3), np.uint8)) for index in range(150)]
    late = AudioTrack(tone, rate_hz=16_000, start_s=1.0, codec="pcm_s16le")
    render_video(path, frames, audio=late)
    heard = sound_of(path)
    assert not heard[: RATE_HZ - 40].any()
    assert heard[RATE_HZ + 40] == pytest.approx(0.5, abs=0.01)
