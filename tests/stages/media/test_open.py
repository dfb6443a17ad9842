"""Opening media: a file is read for what is in it, and nothing that it names is opened."""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.format
import numpy as np
import pytest

from manifests.errors import MediaError, StorageError
from stages.media.formats import FORMATS
from stages.media.open import open_container, open_media
from stages.media.probe import probe
from tests.support.moto_bucket import moto_bucket, upload_folder
from training.data.media import read_frames
from training.generate.given import read_audio, read_image, read_video

_SECRET, _OWN = 220, 40
"""Grey of the neighbours that nobody listed, and of the files themselves."""
_OPENS_OTHERS = (
    "hls", "concat", "image2", "sdp", "rtsp", "rtp", "sap", "vobsub", "mlv", "svg_pipe",
    "webm_dash_manifest", "dash", "imf", "lavfi", "tty", "v4l2", "alsa", "fbdev", "x11grab",
)  # fmt: skip


def render(path: Path, container: str, codec: str, pixels: str = "yuv420p", grey: int = 0) -> Path:
    """A second of one grey, or a single picture of it."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for _ in range(1 if container == "image2" else 10):
            shade = np.full((48, 64, 3), grey, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def refer(movie: bytes, path: Path) -> bytes:
    """A movie whose pictures lie at the same place of another file, by a Macintosh alias."""
    name = str(path).encode()
    name += b"\0" * (len(name) % 2)
    alias = bytes(150) + struct.pack(">HH", 2, len(name)) + name + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    at = movie.index(b"dref") - 4
    (size,) = struct.unpack_from(">I", movie, at)
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    changed = bytearray(movie[:at] + box + movie[at + size :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = movie.index(parent) - 4
        (old,) = struct.unpack_from(">I", movie, place)
        struct.pack_into(">I", changed, place, old + len(box) - size)
    media = movie.index(b"mdat")
    (length,) = struct.unpack_from(">I", movie, media - 4)
    changed[media + 4 : media - 4 + length] = bytes(length - 8)
    return bytes(changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disguised files; beside them, in `private`, what they point at."""
    top = tmp_path_factory.mktemp("disguises")
    private, listed = top / "private", top / "listed"
    private.mkdir()
    listed.mkdir()
    stream = render(private / "private.ts", "mpegts", "mpeg2video", grey=_SECRET)
    movie = render(private / "private.mp4", "mp4", "mpeg4", grey=_SECRET)
    (listed / "next.mp4").write_bytes(movie.read_bytes())
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{stream}\n#EXT-X-ENDLIST\n"
    scripts = {
        "playlist.m3u8": playlist,
        "playlist.mp4": "\ufeff" + playlist,
        "script.mp4": "ffconcat version 1.0\nfile next.mp4\n",
        "absolute.mov": f"ffconcat version 1.0\nfile {movie}\n",
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "index.mp4": "# VobSub index file, v7 (do not modify this line!)\nsize: 64x48\n",
        "words.mp4": "1\n00:00:00,000 --> 00:00:01,000\nwords\n\n",
    }
    for name, text in scripts.items():
        (listed / name).write_text(text)
    (listed / "raw.mlv").write_bytes(b"MLVI" + struct.pack("<I", 52) + b"v2.0" + bytes(200))
    (listed / "reference.mov").write_bytes(refer(movie.read_bytes(), movie))
    return top


REFUSED = {
    "playlist.m3u8": "unsupported_format",
    "playlist.mp4": "unsupported_format",
    "script.mp4": "unsupported_format",
    "absolute.mov": "unsupported_format",
    "session.mp4": "unsupported_format",
    "index.mp4": "unsupported_format",
    "words.mp4": "unsupported_format",
    "raw.mlv": "unsupported_format",
    "reference.mov": "no_decodable_frames",
}


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    with moto_bucket("disguises") as client:
        upload_folder(client, folder / "listed", "disguises", "")
        yield "s3://disguises"


@pytest.mark.parametrize("name", REFUSED)
def test_what_names_other_files_is_refused(folder: Path, bucket: str, name: str) -> None:
    for uri in (
        str(folder / "listed" / name),
        f"file://{folder}/listed/{name}",
        f"{bucket}/{name}",
    ):
        with pytest.raises(MediaError) as caught:
            probe(uri)
        assert (caught.value.code, caught.value.subject) == (REFUSED[name], uri)
        assert not caught.value.retryable
        if caught.value.code == "unsupported_format":
            assert caught.value.remedy == "List the media files themselves."


def test_a_reference_is_one(folder: Path) -> None:
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(folder / "listed" / "reference.mov"), options=options) as container:
        assert len(list(container.decode(video=0))) == 10


@pytest.mark.parametrize(
    "name", ["seq%03d.png", "seq*.png", "seq?.png", "seq{1,2}.png", "tty:1.png"]
)
def test_a_pattern_is_a_name_like_any_other(tmp_path: Path, name: str) -> None:
    own = render(tmp_path / "own.png", "image2", "png", "rgb24", _OWN)
    for other in ("seq000.png", "seq001.png", "seq1.png"):
        render(tmp_path / other, "image2", "png", "rgb24", _SECRET)
    own.rename(tmp_path / name)
    uri = str(tmp_path / name)
    assert probe(uri).modality == "image"
    with open_media(uri) as container:
        (frame,) = container.decode(video=0)
    assert frame.to_ndarray(format="rgb24").mean() == pytest.approx(_OWN, abs=1)
    image = (read_image(tmp_path / name, width=64, height=48) + 1) * 127.5
    assert float(image.mean()) == pytest.approx(_OWN, abs=1)


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "reference.mov"])
def test_samples_and_given_parts_name_no_files_either(folder: Path, name: str) -> None:
    path = folder / "listed" / name
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_frames(
            path.read_bytes(), "mp4", frames=1, width=64, height=48, subject="sample"
        ),
        lambda: read_image(path, width=64, height=48),
        lambda: read_video(path, frames=1, fps=10.0, width=64, height=48),
        lambda: read_audio(path, samples=100, rate_hz=16000),
    )
    codes = []
    for read in readers:
        with pytest.raises(MediaError) as caught:
            read()
        codes.append(caught.value.code)
    assert codes == [
        "sample_unreadable", "image_unreadable", "video_unreadable", "sound_unreadable",
    ]  # fmt: skip


def test_every_format_is_one_of_ffmpegs_and_opens_no_other_file() -> None:
    assert all(av.format.ContainerFormat(name, "r").is_input for name in FORMATS)
    assert len(set(FORMATS)) == len(FORMATS)
    assert not set(FORMATS) & set(_OPENS_OTHERS)


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("mp4", "mpeg4", "yuv420p"),
        ("mpeg", "mpeg1video", "yuv420p"),
        ("mpegts", "mpeg2video", "yuv420p"),
        ("mpeg2video", "mpeg2video", "yuv420p"),
        ("matroska", "mpeg4", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("m4v", "mpeg4", "yuv420p"),
        ("mxf", "mpeg2video", "yuv420p"),
        ("gif", "gif", "rgb8"),
    ],
)
def test_a_format_is_known_without_a_name(
    tmp_path: Path, container: str, codec: str, pixels: str
) -> None:
    file = render(tmp_path / "named.txt", container, codec, pixels, _OWN)
    source = probe(str(file))
    assert (source.modality, source.width, source.height) == ("video", 64, 48)


@pytest.mark.parametrize("codec", ["mjpeg", "tiff", "bmp", "webp", "ppm", "png"])
def test_a_still_is_an_image_without_a_name(tmp_path: Path, codec: str) -> None:
    pixels = {"mjpeg": "yuvj420p", "webp": "yuv420p", "bmp": "bgr24"}.get(codec, "rgb24")
    source = probe(str(render(tmp_path / "named.txt", "image2", codec, pixels, _OWN)))
    assert (source.modality, source.width, source.height) == ("image", 64, 48)
    assert math.isclose(source.duration_s, 0.04)


def test_a_file_is_closed_with_its_container(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[io.FileIO] = []

    class Watched(io.FileIO):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Watched(path))
    with open_media(str(folder / "private" / "private.mp4")) as container:
        assert next(container.decode(video=0)).width == 64
        assert not opened[0].closed
    with pytest.raises(MediaError):
        probe(str(folder / "listed" / "script.mp4"))
    assert len(opened) == 2
    assert all(file.closed for file in opened)


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("", "pipe.mp4"):
        with pytest.raises(MediaError) as caught:
            probe(str(tmp_path / name))
        assert caught.value.code == "unreadable_file"


@pytest.mark.parametrize("failing_read", [1, 3])
@pytest.mark.parametrize(
    "error", [OSError("disk"), StorageError("storage_failed", "network", retryable=True)]
)
def test_a_file_that_cannot_be_read_on_says_so(
    folder: Path, failing_read: int, error: Exception
) -> None:
    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads >= failing_read:
                raise error
            return super().read(min(size or 0, 2000))

    movie = (folder / "private" / "private.ts").read_bytes()
    with pytest.raises(MediaError) as caught, open_container(Failing(movie), "clip") as container:
        list(container.decode(video=0))
    assert (caught.value.code, caught.value.subject) == ("unreadable_file", "clip")
    assert caught.value.retryable
