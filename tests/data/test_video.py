"""Videos: the right frames at the right times, upright, up to the first damage; and who is in which."""

from __future__ import annotations

import os
import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facecrafter.data import video
from facecrafter.data.prepare.source import _list_photos
from facecrafter.data.video import VideoSource, expected_frames, frames
from facecrafter.errors import ConfigError, PhotoError
from facecrafter.faces import emotion
from facecrafter.faces.emotion import EMOTIONS, NAMES

SIDE = 64


@pytest.fixture(scope="module")
def head(astronaut: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A real face, ``(64, 64, 3)``; 96 px of it, reduced."""
    return astronaut[32:224:3, 128:320:3].copy()


def stamped(head: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The face with its number as seven black or white blocks along the lower edge."""
    image = head.copy()
    for bit in range(7):
        image[-8:, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return image


def read_stamp(image: NDArray[np.uint8]) -> int:
    return sum(int(image[-6:-2, 8 * bit + 2 : 8 * bit + 6].mean() > 128) << bit for bit in range(7))


def write(
    path: Path,
    images: Sequence[NDArray[np.uint8]],
    rate: Fraction | int = 25,
    codec: str = "libx264",
    times: Sequence[float] | None = None,
    silence: float = 0.0,
    pixel: Fraction | None = None,
    **options: str,
) -> Path:
    """A video of these images, at these times or at a rate, and so many seconds of silence beside it; pixels are shown
    so much wider than they are high."""
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = pixel
        if codec == "libx264":
            stream.options = {"crf": "10", "g": "25"}
        sound: Any = container.add_stream("aac", rate=16000) if silence else None
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), round(times[number] * 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for _ in range(round(silence * 16000 / 1024)):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate = 16000
            container.mux(sound.encode(samples))
        if silence:
            container.mux(sound.encode())
    return path


@pytest.fixture(scope="module")
def clip(head: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of 25 frames, its index in front."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write(path, [stamped(head, number) for number in range(75)], movflags="faststart")


def times_and_stamps(path: Path, interval: float = 1.0) -> tuple[list[float], list[int]]:
    got = list(frames(path, interval))
    return [round(seconds, 3) for seconds, _ in got], [read_stamp(image) for _, image in got]


# --- which frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "count", "interval", "expected"),
    [
        (25, 75, 1.0, [0, 25, 50]),
        (25, 76, 1.0, [0, 25, 50, 75]),
        (25, 30, 0.4, [0, 10, 20]),
        (25, 30, 0.1, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]),
        (25, 8, 0.01, [0, 1, 2, 3, 4, 5, 6, 7]),
        (25, 30, 10.0, [0]),
        (25, 1, 1.0, [0]),
        (10, 45, 1.5, [0, 15, 30]),
        (Fraction(30000, 1001), 100, 1.0, [0, 30, 60, 90]),
    ],
)
def test_the_first_frame_at_or_after_each_multiple_of_the_interval(
    head: NDArray[np.uint8], tmp_path: Path, rate: Fraction | int, count: int, interval: float, expected: list[int]
) -> None:
    path = write(tmp_path / "clip.mp4", [stamped(head, number) for number in range(count)], rate)
    times, stamps = times_and_stamps(path, interval)
    assert stamps == expected
    assert times == [round(float(number / Fraction(rate)), 3) for number in expected]
    assert expected_frames(path, interval) == len(expected) or interval < 0.1


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mov", "libx264"),
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx"),
        ("a.ts", "libx264"),
        ("a.mpg", "mpeg2video"),
        ("a.h264", "libx264"),
        ("concat:a 100%é.mp4", "libx264"),
    ],
)
def test_every_kind_of_video_gives_the_same(head: NDArray[np.uint8], tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / "plain" / Path(name).with_stem("made").name
    path.parent.mkdir()
    write(path, [stamped(head, number) for number in range(60)], codec=codec)
    path = path.rename(tmp_path / name)
    assert times_and_stamps(path) == ([0, 1, 2], [0, 25, 50])
    assert expected_frames(path) == (1 if name == "a.h264" else 3)


def test_times_are_those_of_showing_not_of_a_rate(head: NDArray[np.uint8], tmp_path: Path) -> None:
    shown = [0, 0.1, 0.2, 2.5, 2.6, 3.0, 3.9, 5.2]
    path = write(tmp_path / "uneven.mkv", [stamped(head, number) for number in range(8)], times=shown)
    assert times_and_stamps(path) == ([0, 2.5, 3.0, 5.2], [0, 3, 5, 7])


def test_colours_are_those_of_the_photo(head: NDArray[np.uint8], clip: Path) -> None:
    for number, (_, image) in zip((0, 25, 50), frames(clip), strict=True):
        assert (image.shape, image.dtype) == ((SIDE, SIDE, 3), np.uint8)
        photo = stamped(head, number).astype(int)
        # Colours are stored at half the size, so a sharp photo loses some.
        assert np.abs(image - photo).mean() < 8
        assert np.abs(image.mean((0, 1)) - photo.mean((0, 1))).max() < 3
        assert np.abs(image[:, :, ::-1] - photo).mean() > 12


MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "a quarter clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "a quarter counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "mirrored and turned": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "no matrix at all": ((0, 0, 0, 0), lambda image: image),
}


@pytest.mark.parametrize("case", MATRICES)
def test_frames_are_turned_as_the_file_says(head: NDArray[np.uint8], tmp_path: Path, case: str) -> None:
    (a, b, c, d), turned = MATRICES[case]
    path = write(tmp_path / "phone.mp4", [head[8:56]])  # wider than high
    ((_, plain),) = frames(path)
    content = path.read_bytes()
    unit = 1 << 16
    identity = struct.pack(">9i", unit, 0, 0, 0, unit, 0, 0, 0, 1 << 30)
    place = content.index(identity, content.index(b"tkhd"))
    matrix = struct.pack(">9i", a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + matrix + content[place + 36 :])
    ((_, image),) = frames(path)
    assert np.array_equal(image, turned(plain))
    assert image.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(("pixel", "size"), [(Fraction(4, 3), (48, 85)), (Fraction(1, 2), (48, 32))])
def test_pixels_that_are_not_square_are_made_so(
    head: NDArray[np.uint8], tmp_path: Path, name: str, pixel: Fraction, size: tuple[int, int]
) -> None:
    image = head[8:56]
    path = write(tmp_path / name, [image], pixel=pixel)
    ((_, shown),) = frames(path)
    assert shown.shape == (*size, 3)
    wanted = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR), int)
    assert np.abs(shown - wanted).mean() < 8


def test_a_turned_video_is_widened_before_it_is_turned(head: NDArray[np.uint8], tmp_path: Path) -> None:
    path = write(tmp_path / "phone.mp4", [head[8:56]], pixel=Fraction(4, 3))
    content, unit = path.read_bytes(), 1 << 16
    place = content.index(struct.pack(">9i", unit, 0, 0, 0, unit, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    quarter = struct.pack(">9i", 0, unit, 0, -unit, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + quarter + content[place + 36 :])
    ((_, image),) = frames(path)
    assert image.shape == (85, 48, 3)


def test_pixels_of_a_shape_that_cannot_be_are_damage(
    head: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "wide.mp4", [head], pixel=Fraction(4, 1))
    monkeypatch.setattr(video, "MOST_PIXELS", 3 * SIDE**2)
    with pytest.raises(PhotoError, match=r"is not a video .* \(its pixels have a shape that cannot be\)"):
        list(frames(path))


# --- what is not whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_cut_video_gives_what_it_has_and_then_says_so(
    clip: Path, head: NDArray[np.uint8], tmp_path: Path, kind: str, share: float
) -> None:
    whole = clip if kind == "mp4" else write(tmp_path / "w.mkv", [stamped(head, number) for number in range(75)])
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    got = []
    with pytest.raises(
        PhotoError, match=rf"cut\.{kind} is damaged after \d\.\d seconds \(.*\); copy it again"
    ) as caught:
        for seconds, image in frames(cut, 0.2):
            got.append((seconds, image))
    assert "\n" not in str(caught.value)
    assert 0.25 * 15 < len(got) < 15
    for (seconds, image), (expected, frame) in zip(got, frames(whole, 0.2), strict=False):
        assert seconds == expected
        assert np.array_equal(image, frame)


def test_a_video_with_a_hole_gives_what_comes_before(clip: Path, tmp_path: Path) -> None:
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    (tmp_path / "hole.mp4").write_bytes(content)
    got = []
    with pytest.raises(PhotoError, match=r"hole\.mp4 is damaged after"):
        for seconds, image in frames(tmp_path / "hole.mp4", 0.04):
            got.append((seconds, image))
    assert 20 < len(got) < 60
    assert [read_stamp(image) for _, image in got] == list(range(len(got)))


def _folder(path: Path) -> None:
    path.mkdir()


def _sound(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def _cut_before_its_index(path: Path) -> None:
    write(path, [np.full((SIDE, SIDE, 3), 7 * number, np.uint8) for number in range(30)])
    path.write_bytes(path.read_bytes()[:-200])


BAD_FILES = {
    "missing": (lambda path: None, "there is no file .*bad.mp4"),
    "folder": (_folder, r"bad\.mp4 is a folder, not a video"),
    "empty": (lambda path: path.write_bytes(b""), r"bad\.mp4 is not a video that can be read \(.*\); copy it again"),
    "text": (lambda path: path.write_text("no video " * 1000), r"bad\.mp4 is not a video that can be read"),
    "sound": (_sound, r"bad\.mp4 is not a video that can be read \(it is of no kind of video that is read\)"),
    "playlist": (
        lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.ts\n#EXT-X-ENDLIST\n"),
        r"bad\.mp4 is not a video that can be read",
    ),
    "list of files": (
        lambda path: path.write_text("ffconcat version 1.0\nfile film.ts\n"),
        r"bad\.mp4 is not a video that can be read \(it is of no kind of video that is read\)",
    ),
    "pipe": (os.mkfifo, r"bad\.mp4 is not a video that can be read \(it is a pipe or a device\)"),
    "cut before its index": (_cut_before_its_index, r"bad\.mp4 is not a video that can be read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_video_is_one_sentence(tmp_path: Path, case: str) -> None:
    make, message = BAD_FILES[case]
    make(tmp_path / "bad.mp4")
    with pytest.raises(PhotoError, match=message) as caught:
        next(frames(tmp_path / "bad.mp4"))
    assert "\n" not in str(caught.value)
    assert expected_frames(tmp_path / "bad.mp4") == 1


@pytest.mark.parametrize("interval", [0, -1, 0.001, float("nan"), float("inf")])
def test_an_interval_that_cannot_be_meant_is_refused_at_once(clip: Path, interval: float) -> None:
    with pytest.raises(ConfigError, match=r"interval .* must be at least 0\.01 seconds"):
        frames(clip, interval)


def test_sound_that_goes_on_is_no_damage(head: NDArray[np.uint8], tmp_path: Path) -> None:
    for kind in ("mp4", "mkv"):
        path = write(tmp_path / f"long.{kind}", [stamped(head, number) for number in range(30)], silence=4)
        assert times_and_stamps(path) == ([0, 1], [0, 25])


def test_a_trimmed_video_is_no_damage(clip: Path, tmp_path: Path) -> None:
    """Cut without encoding again: what comes before the cut is in the file and is not shown."""
    path = tmp_path / "trimmed.mp4"
    with av.open(str(clip)) as whole, av.open(str(path), "w") as trimmed:
        stream = whole.streams.video[0]
        copy = trimmed.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.dts is None or packet.pts is None or stream.time_base is None:
                continue
            packet.pts, packet.dts = (when - int(1.6 / stream.time_base) for when in (packet.pts, packet.dts))
            packet.stream = copy
            trimmed.mux(packet)
    times, stamps = times_and_stamps(path)
    assert times == [0, 1]
    assert stamps == [stamps[0], stamps[0] + 25]
    assert stamps[0] == pytest.approx(40, abs=1)


def test_a_title_that_is_no_text_is_no_damage(head: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "titled.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Abcdefgh"
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(head, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert b"Abcdefgh" in content
    path.write_bytes(content.replace(b"Abcdefgh", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe"))
    assert len(list(frames(path))) == expected_frames(path) == 1


def test_a_consumer_may_stop_early(clip: Path) -> None:
    made = frames(clip)
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert len(list(frames(clip))) == 3


# --- whose video ------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, tuple[str, tuple[str, str | None, int | None, str | None] | None]] = {
    "MEAD": ("M003/video/front/angry/level_1/001.mp4", ("M003", "anger", 1, "front")),
    "MEAD from the left": ("W011/video/left_30/disgusted/level_3/012.mp4", ("W011", "disgust", 3, "left_30")),
    "MEAD from the right": ("W011/video/right_60/surprised/level_2/012.mp4", ("W011", "surprise", 2, "right_60")),
    "MEAD from below": ("M003/video/down/neutral/level_1/040.mp4", ("M003", "neutral", 1, "down")),
    "MEAD from above": ("M003/video/top/happy/level_2/001.mp4", ("M003", "happy", 2, "top")),
    "MEAD, the other name": ("M003/video/up/sad/level_2/001.mp4", ("M003", "sad", 2, "up")),
    "MEAD in a folder": ("MEAD/part0/M003/video/front/fear/level_1/001.mp4", ("M003", "fear", 1, "front")),
    "MEAD without video": ("M003/front/contempt/level_1/001.mp4", ("M003", "contempt", 1, "front")),
    "MEAD, unpacked twice": ("M003/video/video/front/angry/level_1/001.mp4", ("M003", "anger", 1, "front")),
    "by person and emotion": ("Ann/Happiness/take 1.MOV", ("Ann", "happy", None, None)),
    "by person, emotion and level": ("Ann/scared/Level 2/1.avi", ("Ann", "fear", 2, None)),
    "by person and view": ("Ann/left_30/1.webm", ("Ann", None, None, "left_30")),
    "deep": ("Ann/2024/session/Angry/extra/1.mkv", ("Ann", "anger", None, None)),
    "by person": ("Ann/1.mp4", ("Ann", None, None, None)),
    "an emotion of another name": ("Ann/bored/1.mp4", ("Ann", None, None, None)),
    "a person called like an emotion": ("Joy/sad/1.mp4", ("Joy", "sad", None, None)),
    "loose": ("Ann.mp4", ("Ann", None, None, None)),
    "a photo": ("Ann/happy/1.jpg", None),
    "sound": ("M003/audio/angry/level_1/001.m4a", None),
    "hidden": ("Ann/.cache/1.mp4", None),
    "left by a Mac": ("__MACOSX/Ann/1.mp4", None),
}


def videos_of(folder: Path) -> list[VideoSource]:
    """The videos that a preparation of the folder finds, in its order."""
    return [photo.video for photo in _list_photos(folder, 1.0) if photo.video is not None]


@pytest.mark.parametrize("case", LAYOUTS)
def test_folders_say_who_and_what(tmp_path: Path, case: str) -> None:
    name, expected = LAYOUTS[case]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    found = videos_of(tmp_path)
    assert found == ([] if expected is None else [VideoSource(tmp_path / name, *expected)])
    assert all(source.emotion in (None, *EMOTIONS) for source in found)


@pytest.mark.parametrize("root", ["M003", "M003/video", "M003/video/front", "M003/video/front/angry/level_1"])
def test_a_part_of_mead_keeps_its_person(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "M003" / "video" / "front" / "angry" / "level_1" / "001.mp4"
    path.parent.mkdir(parents=True)
    path.touch()
    assert videos_of(tmp_path / root) == [VideoSource(path, "M003", "anger", 1, "front")]
    monkeypatch.chdir(tmp_path / root)
    assert [source.person for source in videos_of(Path())] == ["M003"]


def test_videos_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["B/happy/2.mp4", "B/happy/10.mp4", "A/2.mp4", "c.mp4", "B/angry/1.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [source.path.relative_to(tmp_path).as_posix() for source in videos_of(tmp_path)] == sorted(names)


def test_every_emotion_has_words_of_its_own() -> None:
    assert set(emotion._WORDS) == set(EMOTIONS)
    assert len(NAMES) == sum(len(words) for words in emotion._WORDS.values())
    published = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")
    assert sorted(NAMES[word] for word in published) == sorted(EMOTIONS)
