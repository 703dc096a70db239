"""Frames of videos: which ones are read, what they show, and what is refused."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from minigpt4.common.errors import BadSample, DataError
from minigpt4.processors import containers, video
from minigpt4.processors.video import (
    VideoReader,
    minigpt4_video,
    read_frames,
    told_to_people,
    uniform,
    video_info,
)
from tests.support.videos import CODECS, number_of, write_growing_video, write_video


@pytest.mark.parametrize(
    ("total", "count", "places"),
    [
        (89, 8, [5, 16, 27, 38, 50, 61, 72, 83]),
        (10, 4, [1, 3, 6, 8]),
        (100, 1, [50]),
        (3, 8, [0, 1, 2]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0, 8, []),
    ],
)
def test_uniform_looks_at_the_whole_length(total: int, count: int, places: list[int]) -> None:
    assert uniform(total, count) == places


@pytest.mark.parametrize(
    ("total", "count", "places"),
    [
        (89, 45, list(range(45))),  # their fault: the second half is never seen
        (90, 45, list(range(0, 90, 2))),
        (1000, 4, [0, 250, 500, 750]),
        (1003, 4, [0, 250, 500, 750]),
        (3, 5, [0, 1, 2, 2, 2]),
        (0, 5, []),
    ],
)
def test_minigpt4_video_samples_as_the_original(total: int, count: int, places: list[int]) -> None:
    assert minigpt4_video(total, count) == places


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("count", [3, 40])  # seeks, and passes over
def test_frames_are_those_that_were_chosen(tmp_path: Path, suffix: str, count: int) -> None:
    """To the bit those of a reader that decodes everything."""
    path, places = write_video(tmp_path / f"a{suffix}", 150), uniform(150, count)
    capture = cv2.VideoCapture(str(path))
    everything = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(150)]
    frames = read_frames(path, np.copy, count)
    for frame, place in zip(frames, places, strict=True):
        assert np.array_equal(frame.image, everything[place]) and frame.time == place / 10
        assert number_of(frame.image) == pytest.approx(place, abs=4)  # a codec may leave small changes out


def test_pixels_are_rgb(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.mkv"), cv2.VideoWriter.fourcc(*"FFV1"), 5, (16, 16))
    writer.write(np.full((16, 16, 3), (0, 0, 255), np.uint8))  # OpenCV's red
    writer.release()
    (frame,) = read_frames(tmp_path / "a.mkv", np.copy, 1)
    assert frame.image.shape == (16, 16, 3) and frame.image[8, 8] == pytest.approx([255, 0, 0], abs=2)


def test_a_window_is_sampled_by_itself(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 100)
    frames = read_frames(path, number_of, 2, window=(4.0, 6.0))
    assert [(frame.image, frame.time) for frame in frames] == [(45, 4.5), (55, 5.5)]
    assert [frame.time for frame in read_frames(path, number_of, 2, window=(9.0, 99.0))] == [9.2, 9.7]
    assert [frame.time for frame in read_frames(path, number_of, 2, window=(9.0, float("inf")))] == [9.2, 9.7]
    for start, end in [(9.97, 10.0), (4.96, 4.99)]:  # less than a frame
        (frame,) = read_frames(path, number_of, 2, window=(start, end))
        assert frame.time == min(round(start, 1), 9.9)
    for start in (10.0, 11.0):
        with pytest.raises(BadSample, match="without frames"):
            read_frames(path, number_of, 2, window=(start, 12.0))


def test_info(tmp_path: Path) -> None:
    info = video_info(write_video(tmp_path / "a.mp4", 25, fps=5, size=(64, 48)))
    assert (info.frames, info.fps, info.width, info.height, info.rotation) == (25, 5.0, 64, 48, 0)
    assert info.seconds == 5.0


def test_a_rotated_video_is_upright(tmp_path: Path) -> None:
    """As phones write them: the matrix of the track's header says how to turn the frames."""
    path = write_video(tmp_path / "a.mp4", 3, size=(64, 48))
    upright = (1 << 16, 0, 0, 0, 1 << 16, 0)
    turned = (0, 1 << 16, 0, -(1 << 16), 0, 0)
    data = path.read_bytes()
    track = data.index(b"tkhd")
    before, after = (b"".join(n.to_bytes(4, "big", signed=True) for n in m) for m in (upright, turned))
    assert data.count(before, track) == 1
    path.write_bytes(data[:track] + data[track:].replace(before, after))
    assert video_info(path).rotation == 90
    (frame,) = read_frames(path, np.copy, 1)
    assert frame.image.shape == (64, 48, 3)


def test_a_video_shorter_than_it_says_is_sampled_by_what_is_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 50)
    data = path.read_bytes()
    promised = data.replace((50).to_bytes(4, "little"), (90).to_bytes(4, "little"))
    path.write_bytes(promised)
    assert video_info(path).frames == 90
    assert [frame.time for frame in read_frames(path, number_of, 5)] == [0.5, 1.5, 2.5, 3.5, 4.5]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty video"),
        (b"not a video", "not a video of a known kind"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not a video of a known kind"),
        (b"\0\0\0\x18ftypisom" + bytes(100), "broken video, or one of an unknown codec"),
        (b"\x1aE\xdf\xa3" + bytes(100), "broken video, or one of an unknown codec"),
    ],
)
def test_what_is_no_video_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(BadSample, match=f"^{reason}$"):
        read_frames(path, number_of, 4)
    told = rf"^The video a\.mp4 cannot be read: {reason}\.$"
    with pytest.raises(DataError, match=told), told_to_people(path):
        VideoReader().read(path, number_of)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.avi\n#{}\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile other.avi\n#{}\n"),
    ],
)
def test_a_playlist_dressed_as_a_video_is_not_followed(tmp_path: Path, name: str, text: str) -> None:
    """Byte 188 is that of an MPEG transport stream: FFmpeg read the file that the playlist names."""
    write_video(tmp_path / "other.avi", 5)
    before = text.index("{}")
    (tmp_path / name).write_text(text.format("x" * (188 - before) + "G"))
    with pytest.raises(BadSample, match=r"^broken video"):
        read_frames(tmp_path / name, number_of, 2)


def test_captures_of_others_keep_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.avi", 3)
    for value in ("rtsp_transport;tcp", None):
        if value is None:
            monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS")
        else:
            monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", value)
        assert len(read_frames(path, number_of, 3)) == 3
        assert os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS") == value


def test_pixels_of_all_frames_are_limited_on_request(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    assert len(read_frames(path, number_of, 4, pixels=30 * 32 * 24)) == 4
    with pytest.raises(BadSample, match="video too long"):
        read_frames(path, number_of, 4, pixels=30 * 32 * 24 - 1)


def test_a_strangers_video_may_not_take_longer_than_its_header_tells(tmp_path, monkeypatch) -> None:
    """Its frames grow after the first ones: no property of OpenCV's tells that."""
    monkeypatch.setattr(video, "LEAST_SECONDS", 0.05)  # of processor time: the large frames take a second
    path = write_growing_video(tmp_path / "a.avi", 30, 60, (3840, 2160))
    most = 90 * 32 * 24
    assert len(read_frames(path, number_of, 4, window=(0, 3), pixels=most)) == 4
    with pytest.raises(BadSample, match="video too long"):
        read_frames(path, number_of, 4, pixels=most)


def test_a_truncated_video_has_a_reason(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    path.write_bytes(path.read_bytes()[:300])  # its index is at the end
    with pytest.raises(BadSample, match="broken video"):
        read_frames(path, number_of, 4)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    for module, name, value, reason in [
        (containers, "MAX_FILE_BYTES", 10, "video too large"),
        (video, "MAX_FRAME_PIXELS", 32 * 24 - 1, "video too large"),
        (video, "MAX_SECONDS", 2.9, "video too long"),
        (video, "MAX_FRAMES", 29, "video too long"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            with pytest.raises(BadSample, match=reason):
                read_frames(path, number_of, 4)
    assert len(read_frames(path, number_of, 4)) == 4


def test_missing_files_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "none.mp4", number_of, 1)
    os.mkfifo(tmp_path / "endless.mp4")
    with pytest.raises(OSError, match="not a regular file"):
        read_frames(tmp_path / "endless.mp4", number_of, 1)
