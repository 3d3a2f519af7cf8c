"""Videos to frames at even times, and who is in which video of a published set.

The paper takes frames of MEAD and FEED at 1-second intervals (Sec. 4.1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from facecrafter.errors import ConfigError, PhotoError
from facecrafter.faces.emotion import NAMES

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)

# FFmpeg's readers of these files. It has others, of playlists and of streams, that open what a file names.
DEMUXERS = "asf,avi,flv,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,ogg"

# Of a frame: twice what 8K video has. A decoder holds up to 17 frames.
MOST_PIXELS = 2**26

SHORTEST_INTERVAL = 0.01

# What MEAD calls its cameras.
VIEWS = frozenset({"front", "left_30", "left_60", "right_30", "right_60", "top", "up", "down"})

_LEVEL = re.compile(r"level[ _-]?(\d+)", re.IGNORECASE)

# A header may promise a little more than there is.
_SLACK = 0.5


@dataclass(frozen=True)
class VideoSource:
    """A video of a set, and what its folders say about it.

    Attributes:
        path: the file.
        person: who is in it.
        emotion: one of :data:`facecrafter.faces.emotion.EMOTIONS`, as asked of the person; None if unknown.
        level: how strong, in MEAD 1 to 3.
        view: the camera, one of :data:`VIEWS`.
    """

    path: Path
    person: str
    emotion: str | None = None
    level: int | None = None
    view: str | None = None


# --- frames -----------------------------------------------------------------------------------------------------------


def frames(path: str | Path, interval: float = 1.0) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """The frames of a video at even times, upright.

    For each multiple of the interval that is the first frame shown at that time or later; no frame comes twice. The
    video is decoded from its beginning, which finds the right frames also where an index is wrong or missing.

    Args:
        path: a video of any kind that FFmpeg reads.
        interval: seconds, at least 0.01.

    Yields:
        Seconds since the first frame, and the image ``(H, W, 3)`` uint8 RGB, in square pixels, turned (and mirrored)
        as the file says it should be shown.

    Raises:
        ConfigError: an interval below 0.01, at once.
        PhotoError: no such file, not a video, or damaged or cut off: then after the frames before the damage. What
            comes after it is not used, for it may be smeared.
    """
    check_interval(interval)
    return _frames(Path(path), interval)


def check_interval(interval: float) -> None:
    """Refuse an interval between frames that cannot be meant.

    Raises:
        ConfigError: it is shorter than 0.01 s, or not a number.
    """
    if not SHORTEST_INTERVAL <= interval < math.inf:
        raise ConfigError(f"interval {interval:g} must be at least {SHORTEST_INTERVAL} seconds")


def expected_frames(path: Path, interval: float = 1.0) -> int:
    """How many images :func:`frames` will give, by the file's header; 1 where that says nothing or cannot be read."""
    try:
        with _opened(path) as container:
            promised = _promised(container, _video_stream(container))
    except Exception:  # whatever it is, reading the frames says it
        return 1
    return max(1, math.ceil(promised / interval - 1e-6))


class _Damage(Exception):
    """A video that is not whole; the message says how."""


def _frames(path: Path, interval: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    seconds = due = 0.0
    try:
        with _opened(path) as container:
            stream = _video_stream(container)
            for seconds, frame in _timed(stream, _decoded(container, stream)):
                if seconds >= due - 1e-6:
                    yield seconds, _upright(frame, _shown_width(frame, stream))
                    due = (math.floor(seconds / interval + 1e-6) + 1) * interval
            if not due:
                raise _Damage("it has no frames")
            promised = _promised(container, stream)
            if promised - seconds > _SLACK + 2 * _frame_length(stream):
                raise _Damage(f"it ends {promised - seconds:.1f} seconds early")
    except FileNotFoundError:
        raise PhotoError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise PhotoError(f"{path} is a folder, not a video") from None
    # FFmpeg's errors, and what PyAV raises of numbers that cannot be: ValueError, ZeroDivisionError, OverflowError ...
    except Exception as error:
        if not due:
            raise PhotoError(f"{path} is not a video that can be read ({_reason(error)}); copy it again") from None
        raise PhotoError(
            f"{path} is damaged after {seconds:.1f} seconds ({_reason(error)}); copy it again for the rest"
        ) from None


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """A video of one of the :data:`DEMUXERS`. It is opened here, as FFmpeg takes a name like "concat:a.mp4" for an
    order; and a FIFO, which would wait for its other end for ever, is not opened at all."""
    import av

    if path.exists() and not path.is_file() and not path.is_dir():
        raise _Damage("it is a pipe or a device")
    with path.open("rb") as file:
        try:
            container = av.open(file, "r", metadata_errors="ignore", container_options={"format_whitelist": DEMUXERS})
        except av.ArgumentError:
            raise _Damage("it is of no kind of video that is read") from None
        except av.MemoryError:  # opening a video takes little, unless its header says otherwise
            raise _Damage("its header asks for more memory than there is") from None
        with container:
            yield container


def _reason(error: Exception) -> str:
    """What went wrong, without the file's name and numbers that tell nobody anything."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def _video_stream(container: InputContainer) -> VideoStream:
    """The image of a video. One thread decodes it, so that what damage leaves does not depend on the machine."""
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            return stream
    raise _Damage("it has no images")


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All whole frames in the order in which they are shown, up to the first damage."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _Damage("a part of it is missing")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise _Damage("a frame is broken")
                yield frame
    except (av.FFmpegError, _Damage):
        # The decoder keeps some frames back until it knows that none comes before them.
        with suppress(av.FFmpegError):
            yield from (frame for frame in stream.codec_context.decode(None) if not frame.is_corrupt)
        raise


def _timed(stream: VideoStream, decoded: Iterable[VideoFrame]) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their times in seconds since the first; a stream without times has its frames at even ones."""
    first, length = 0.0, _frame_length(stream)
    for number, frame in enumerate(decoded):
        if frame.pts is not None and stream.time_base is not None:
            time = float(frame.pts * stream.time_base)
        elif length:
            time = number * length
        else:
            raise _Damage("it does not say when its frames are shown")
        first = time if number == 0 else first
        yield time - first, frame


def _frame_length(stream: VideoStream) -> float:
    """Seconds from a frame to the next on average, 0 if the file does not say."""
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.0


def _promised(container: InputContainer, stream: VideoStream) -> float:
    """How many seconds a header says there are, 0 if it does not. The whole may last longer for its sound."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _shown_width(frame: VideoFrame, stream: VideoStream) -> int:
    """How wide a frame is in square pixels, of which its height has as many as before; old standards, and lenses for
    wide screens, have pixels that are higher or wider than that."""
    width = round(frame.width * (stream.sample_aspect_ratio or 1))
    if width != frame.width and not 0 < width * frame.height <= MOST_PIXELS:
        raise _Damage("its pixels have a shape that cannot be")
    return width


def _upright(frame: VideoFrame, width: int) -> NDArray[np.uint8]:
    """A frame's pixels as they are meant to be shown: ``(H, W, 3)`` uint8 RGB, before it is turned of that width."""
    size: dict[str, Any] = {} if width == frame.width else {"width": width, "height": frame.height}
    image = np.asarray(frame.to_ndarray(format="rgb24", **size), np.uint8)
    matrix = cast(Mapping[str, Any], frame.side_data).get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # A pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift (ISO 14496-12).
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


# --- whose video ------------------------------------------------------------------------------------------------------


def source(root: Path, path: Path) -> VideoSource | None:
    """What the folders say about one video below ``root``; None if the file's name is not that of a video.

    MEAD is known by its last folders, ``M003/video/front/angry/level_1/001.mp4`` (``video`` may be missing), and then
    ``root`` may also be a person's folder or one inside it. In any other set the first folder below ``root`` names the
    person, and a folder further down that is an emotion word, ``level_2`` or one of MEAD's views is taken as such. A
    video that lies in ``root`` itself is its own person.
    """
    if path.suffix.lower() not in SUFFIXES:
        return None
    folders = path.relative_to(root).parent.parts
    mead = _mead((*root.resolve().parts, *folders), path)
    if mead is not None:
        return mead
    person, below = (folders[0], folders[1:]) if folders else (path.stem, ())
    emotion, level, view = None, None, None
    for name in below:
        emotion = NAMES.get(name.lower(), emotion)
        strength = _LEVEL.fullmatch(name)
        level = int(strength[1]) if strength else level
        view = name.lower() if name.lower() in VIEWS else view
    return VideoSource(path, person, emotion, level, view)


def _mead(folders: tuple[str, ...], path: Path) -> VideoSource | None:
    """A video of MEAD, known by the folders it lies in; None if it is not one."""
    if len(folders) < 4:
        return None
    *above, view, emotion, level = folders
    strength = _LEVEL.fullmatch(level)
    if view not in VIEWS or emotion not in NAMES or strength is None:
        return None
    while len(above) > 1 and above[-1] == "video":
        above.pop()
    return VideoSource(path, above[-1], NAMES[emotion], int(strength[1]), view)
