"""Which file formats are read: those that hold video and audio themselves.

The format of a file is found by what is in it, never by its name. FFmpeg knows some 370 formats;
what is not named here is refused, because it belongs to one of these kinds:

- It names other files or addresses, which would be opened in the place of what was listed:
  playlists and manifests (`hls`, `dash`, `concat`, `imf`, `webm_dash_manifest`), sessions (`sdp`,
  `rtsp`, `rtp`, `sap`), numbered or globbed neighbours (`image2`, and `mlv` with its `.M00` to
  `.M99`), a neighbour of the same name (`vobsub`), and drawings that include files (`svg_pipe`).
- It is a device or a graph of filters and no file at all: `lavfi`, `v4l2`, `alsa`, `oss`, `fbdev`,
  `kmsgrab`, `x11grab`.
- It is text: FFmpeg would draw it as a video (`tty`, `bin`, `xbin`, `adf`, `idf`), play it as sound
  (`sbg`), or it holds words only (`srt`, `webvtt`, `ass`, `lrc`, `ffmetadata` and other subtitles).
- It has no header, so that anything could be taken for it, and only a name would tell: `rawvideo`,
  `data`, the `pcm` formats (`s16le`, `mulaw`, ...), `g722`, `gsm`, `image2pipe`.
- It comes out of games and game consoles (`bink`, `smk`, `roq`, `vag`, ...), or out of one maker's
  devices or programs. Nobody's footage is in it, and every further reader is one more that a
  crafted file may attack.
"""

from __future__ import annotations

_CONTAINERS = (
    # FFmpeg's `mov` (also mp4, m4a, 3gp, avif, heic) follows references to other files only where
    # `enable_drefs` is set, which it is not.
    "mov", "matroska", "avi", "flv", "live_flv", "kux", "mpegts", "mpeg", "ogg", "asf", "asf_o",
    "mxf", "gxf", "lxf", "nut", "rm", "wtv", "ivf", "dv", "nsv", "nuv", "pva", "swf", "ty", "dhav",
    "mpjpeg", "smjpeg", "yuv4mpegpipe", "r3d", "cine",
)  # fmt: skip
_VIDEO_STREAMS = (
    "h261", "h263", "h264", "hevc", "vvc", "m4v", "mpegvideo", "mjpeg", "mjpeg_2000", "av1", "obu",
    "evc", "apv", "dirac", "dnxhd", "vc1", "vc1test", "cavsvideo", "avs2", "avs3",
)  # fmt: skip
_AUDIO = (
    "wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "loas", "ac3", "ac4", "eac3", "dts",
    "dtshd", "truehd", "mlp", "amr", "ape", "wv", "tta", "tak", "mpc", "mpc8", "shn", "bonk", "osq",
    "rka", "dsf", "iff", "wsd", "voc", "qcp", "oma", "spdif", "ircam", "sox", "nistsphere", "avr",
    "pvf", "epaf", "sds", "xwma", "vqf", "aea", "aa", "iamf", "lc3", "qoa", "codec2",
)  # fmt: skip
_ANIMATIONS = ("gif", "apng", "jpegxl_anim", "ico")

STILL_FORMATS = frozenset({
    "bmp_pipe", "cri_pipe", "dds_pipe", "dpx_pipe", "exr_pipe", "gem_pipe", "gif_pipe", "hdr_pipe",
    "j2k_pipe", "jpeg_pipe", "jpegls_pipe", "jpegxl_pipe", "jpegxs_pipe", "pam_pipe", "pbm_pipe",
    "pcx_pipe", "pfm_pipe", "pgm_pipe", "pgmyuv_pipe", "pgx_pipe", "phm_pipe", "photocd_pipe",
    "pictor_pipe", "png_pipe", "ppm_pipe", "psd_pipe", "qdraw_pipe", "qoi_pipe", "sgi_pipe",
    "sunrast_pipe", "tiff_pipe", "vbn_pipe", "webp_pipe", "xbm_pipe", "xpm_pipe", "xwd_pipe",
})  # fmt: skip
"""FFmpeg's names of formats that hold one picture."""
FORMATS = (*_CONTAINERS, *_VIDEO_STREAMS, *_AUDIO, *_ANIMATIONS, *sorted(STILL_FORMATS))
"""FFmpeg's names of all formats that are read."""
