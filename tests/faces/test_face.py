"""Photos of every kind are read, faces of every size are found, and bad input gets one sentence."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from facecrafter.errors import NoFaceError, PhotoError, WeightsError
from facecrafter.estimators import face_finder
from facecrafter.estimators.face_finder import FaceFinder
from facecrafter.faces.face import (
    BLENDSHAPES,
    LEFT_EYE,
    MOUTH_CORNERS,
    RIGHT_EYE,
    Detection,
    Face,
    align,
    ffhq_frame,
    head_angles,
    load_photo,
)

Photo = NDArray[np.uint8]
BOX = (180, 71, 270, 177)  # of the astronaut's face


def quadrants() -> Photo:
    """A small image whose four quarters differ: red, green / blue, white."""
    image = np.zeros((24, 40, 3), np.uint8)
    image[:12, :20], image[:12, 20:] = (255, 0, 0), (0, 255, 0)
    image[12:, :20], image[12:, 20:] = (0, 0, 255), (255, 255, 255)
    return image


def corners(image: Photo) -> list[tuple[int, ...]]:
    """The colours near the four corners, row by row, rounded to full or empty."""
    return [tuple((image[y, x] > 127) * 255) for y in (3, -4) for x in (3, -4)]


RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

# EXIF orientation: what the corners of the stored image become, by the standard's own table.
UPRIGHT = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quadrants()).save(tmp_path / f"a.{ending}", exif=exif, quality=100)
    photo = load_photo(tmp_path / f"a.{ending}")
    assert photo.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    assert corners(photo) == UPRIGHT[orientation]


def as_mode(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(quadrants()).convert(mode).save(path)


def deep_grey(mode: str, top: float) -> Callable[[Path], None]:
    """Grey quarters of 0, 0.2, 0.6 and all of a range, in a mode of more than eight bits."""
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]

    def save(path: Path) -> None:
        values = np.zeros((24, 40))
        values[:12, 20:], values[12:, :20], values[12:, 20:] = 0.2 * top, 0.6 * top, top
        Image.fromarray(values.astype(kind)).save(path)

    return save


def deep_colour(path: Path) -> None:
    import cv2

    assert cv2.imwrite(str(path), quadrants()[:, :, ::-1].astype(np.uint16) * 257)


def transparent(mode: str) -> Callable[[Path], None]:
    """The upper half opaque, the lower one transparent."""

    def save(path: Path) -> None:
        alpha = np.zeros((24, 40, 1), np.uint8)
        alpha[:12] = 255
        image = Image.fromarray(np.concatenate([quadrants(), alpha], axis=2))
        image.convert(mode).save(path)

    return save


def transparent_palette(path: Path) -> None:
    image = Image.fromarray(quadrants()).quantize(4)
    blue = image.getpixel((3, 20))
    image.save(path, transparency=blue)


def transparent_colour(path: Path) -> None:
    Image.fromarray(quadrants()).save(path, transparency=BLUE)


COLOURS = [RED, GREEN, BLUE, WHITE]
GREYS = [BLACK, BLACK, WHITE, WHITE]
KINDS: dict[str, tuple[str, Callable[[Path], None], list[tuple[int, int, int]]]] = {
    "RGB PNG": ("a.png", as_mode("RGB"), COLOURS),
    "palette PNG": ("a.png", as_mode("P"), COLOURS),
    "palette GIF": ("a.gif", as_mode("P"), COLOURS),
    "CMYK JPEG": ("a.jpg", as_mode("CMYK"), COLOURS),
    "CMYK TIFF": ("a.tiff", as_mode("CMYK"), COLOURS),
    "BMP": ("a.bmp", as_mode("RGB"), COLOURS),
    "grey JPEG": ("a.jpg", as_mode("L"), [BLACK, WHITE, BLACK, WHITE]),
    "one bit PNG": ("a.png", lambda path: Image.fromarray(quadrants()[..., 1] > 127).save(path), [BLACK, WHITE] * 2),
    "16-bit grey PNG": ("a.png", deep_grey("I;16", 65535), GREYS),
    "16-bit grey TIFF": ("a.tiff", deep_grey("I;16", 65535), GREYS),
    "dark 16-bit grey PNG": ("a.png", deep_grey("I;16", 200), [BLACK] * 4),
    "32-bit TIFF of 8-bit values": ("a.tiff", deep_grey("I", 255), GREYS),
    "32-bit TIFF of 16-bit values": ("a.tiff", deep_grey("I", 65535), GREYS),
    "float TIFF of 0 to 1": ("a.tiff", deep_grey("F", 1), GREYS),
    "float TIFF of 0 to 255": ("a.tiff", deep_grey("F", 255), GREYS),
    "16-bit colour PNG": ("a.png", deep_colour, COLOURS),
    "16-bit colour TIFF": ("a.tiff", deep_colour, COLOURS),
    "RGBA PNG": ("a.png", transparent("RGBA"), [RED, GREEN, WHITE, WHITE]),
    "RGBA WebP": ("a.webp", transparent("RGBA"), [RED, GREEN, WHITE, WHITE]),
    "grey with alpha": ("a.png", transparent("LA"), [BLACK, WHITE, WHITE, WHITE]),
    "palette with transparency PNG": ("a.png", transparent_palette, [RED, GREEN, WHITE, WHITE]),
    "palette with transparency GIF": ("a.gif", transparent_palette, [RED, GREEN, WHITE, WHITE]),
    "transparent colour PNG": ("a.png", transparent_colour, [RED, GREEN, WHITE, WHITE]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, kind: str) -> None:
    name, save, expected = KINDS[kind]
    save(tmp_path / name)
    photo = load_photo(tmp_path / name)
    assert photo.shape == (24, 40, 3) and photo.dtype == np.uint8
    assert corners(photo) == expected


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    deep_grey("I;16", 65535)(tmp_path / "a.png")
    photo = load_photo(str(tmp_path / "a.png"))
    assert [photo[y, x, 0] for y in (3, -4) for x in (3, -4)] == [0, 51, 153, 255]


def jpeg(path: Path) -> bytes:
    Image.fromarray(skimage.data.astronaut()).save(path, "jpeg")
    return path.read_bytes()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "is not an image"),
    "text": (lambda path: path.write_text("a photo, honestly\n"), "is not an image"),
    "truncated JPEG": (lambda path: path.write_bytes(jpeg(path)[:9000]), "damaged"),
    "JPEG cut in its header": (lambda path: path.write_bytes(jpeg(path)[:40]), "a.jpg"),
    "JPEG without its end": (lambda path: path.write_bytes(jpeg(path)[:-2000]), "damaged"),
    "PNG signature alone": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "is not an image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_photos_are_named(tmp_path: Path, kind: str) -> None:
    make, reason = BAD[kind]
    path = tmp_path / "a.jpg"
    make(path)
    with pytest.raises(PhotoError) as caught:
        load_photo(path)
    assert str(path) in str(caught.value) and reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp", "gif"])
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(quadrants()).save(path)
    whole, dice, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        bytes_now = bytearray(whole)
        for place in dice.integers(0, min(len(whole), 400), 4):
            bytes_now[place] = dice.integers(256)
        path.write_bytes(bytes_now[: dice.integers(1, len(whole))] if dice.integers(3) == 0 else bytes_now)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about what it meets
                load_photo(path)
        except PhotoError:
            refused += 1
    assert refused


def resized(photo: Photo, size: tuple[int, int]) -> Photo:
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))


def in_large_image(astronaut: Photo, face_height: int, side: int) -> tuple[Photo, tuple[int, int]]:
    """The astronaut, her face of that height, in a large, cloudy image; and where the face's centre is."""
    scale = face_height / (BOX[3] - BOX[1])
    small = resized(astronaut[:256, 96:352], (round(256 * scale),) * 2)
    clouds = np.random.default_rng(0).integers(60, 200, (9, 12, 3), dtype=np.uint8)
    large = resized(clouds, (side, side * 3 // 4)).copy()
    left, top = side * 7 // 10, side // 5
    large[top : top + len(small), left : left + len(small)] = small
    centre = ((BOX[0] + BOX[2]) / 2 - 96) * scale, (BOX[1] + BOX[3]) / 2 * scale
    return large, (round(left + centre[0]), round(top + centre[1]))


@pytest.mark.parametrize(("face_height", "side"), [(60, 600), (60, 1500), (60, 6000), (300, 6000), (32, 1000)])
def test_small_faces_in_large_images_are_found(
    finder: FaceFinder, astronaut: Photo, face_height: int, side: int
) -> None:
    photo, (x, y) = in_large_image(astronaut, face_height, side)
    found = finder.find(photo)
    left, top, right, bottom = found.box
    assert abs((left + right) / 2 - x) < face_height / 8 and abs((top + bottom) / 2 - y) < face_height / 8
    assert abs((bottom - top) / face_height - 1) < 0.15
    assert found.others == 0


@pytest.mark.parametrize("height", [60, 106, 900])
def test_a_face_that_fills_the_frame_is_found(finder: FaceFinder, astronaut: Photo, height: int) -> None:
    tight = astronaut[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    width = height * tight.shape[1] // tight.shape[0]
    left, top, right, bottom = finder.find(resized(tight, (width, height))).box
    assert abs(left) < width / 10 and abs(right - width) < width / 10
    assert abs(top) < height / 10 and abs(bottom - height) < height / 10


@pytest.mark.parametrize("scale", [1, 5])
def test_half_a_face_at_the_frames_edge_is_found(finder: FaceFinder, astronaut: Photo, scale: int) -> None:
    half = astronaut[BOX[1] : BOX[3], BOX[0] : (BOX[0] + BOX[2]) // 2]
    left, top, _, bottom = finder.find(resized(half, (45 * scale, 106 * scale))).box
    assert abs(top) < 16 * scale and abs(bottom - 106 * scale) < 16 * scale and abs(left) < 10 * scale


def test_the_look_with_a_border_measures_in_the_photo(finder: FaceFinder, astronaut: Photo) -> None:
    photo = astronaut[:300, 100:360]
    (plain,), (bordered,) = finder._look(photo), finder._look(photo, border=1 / 3)
    assert np.abs(plain.points[:, :2] - bordered.points[:, :2]).max() < 4
    assert np.abs(plain.points[:, 2] - bordered.points[:, 2]).max() < 8


def test_an_easy_image_costs_one_look(finder: FaceFinder, astronaut: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = finder._look
    monkeypatch.setattr(finder, "_look", lambda *args, **kwargs: looks.append(1) or look(*args, **kwargs))
    finder.find(astronaut)
    assert len(looks) == 1


NOTHING: dict[str, Photo] = {
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "one pixel wide": np.full((300, 1, 3), 90, np.uint8),
    "one pixel high": np.full((1, 3000, 3), 90, np.uint8),
    "black": np.zeros((480, 640, 3), np.uint8),
    "noise": np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8),
    "coffee": skimage.data.coffee(),
    "coins": np.repeat(skimage.data.coins()[..., None], 3, axis=2),
}


@pytest.mark.parametrize("what", NOTHING)
def test_no_face_names_the_image_and_its_size(finder: FaceFinder, what: str) -> None:
    height, width = NOTHING[what].shape[:2]
    with pytest.raises(NoFaceError, match=rf"^no face found in holiday/12\.jpg \({width}x{height}\); try .*[^.]$"):
        finder.find(NOTHING[what], name=Path("holiday/12.jpg"))


def test_choosing_between_two_faces(finder: FaceFinder, astronaut: Photo) -> None:
    """A large face at the edge and a small one in the middle."""
    large, small = resized(astronaut[40:240, 120:320], (300, 300)), astronaut[40:240, 120:320]
    montage = np.full((300, 640, 3), 128, np.uint8)
    montage[:, :300] = large
    montage[50:250, 300:500] = small[:, ::-1]
    largest, nearest = finder.find(montage, choose="largest"), finder.find(montage, choose="centre")
    assert 0 < largest.box[0] < largest.box[2] < 300 and largest.others == 1
    assert 300 < nearest.box[0] < nearest.box[2] < 500 and nearest.others == 1
    assert (largest.box[2] - largest.box[0]) > 1.3 * (nearest.box[2] - nearest.box[0])


def test_small_faces_are_each_found_once(finder: FaceFinder, astronaut: Photo) -> None:
    """Two neighbours, so that the close look at one shows the other too."""
    photo, (x, y) = in_large_image(astronaut, 60, 2000)
    pair = photo[y - 40 : y + 40, x - 32 : x + 32].copy()
    photo[y - 40 : y + 40, x + 32 : x + 96] = pair[:, ::-1]
    faces = finder.find_all(photo)
    assert sorted((one.box[0] + one.box[2]) / 2 - x for one in faces) == pytest.approx([0, 64], abs=6)


@pytest.mark.parametrize("size", [32, 128, 256, 777])
def test_alignment_at_any_size_is_the_same_crop(finder: FaceFinder, astronaut: Photo, face: Face, size: int) -> None:
    other = finder.find(astronaut, size)
    assert other.image.shape == (size, size, 3) and other.image.dtype == np.uint8
    np.testing.assert_allclose(other.points / size, face.points / 256, atol=1e-4)
    small = (resized(one.image, (32, 32)).astype(float) for one in (other, face))
    assert np.abs(next(small) - next(small)).mean() < 2.5


def test_a_panorama_is_aligned_like_its_part(finder: FaceFinder, astronaut: Photo) -> None:
    """OpenCV takes nothing out of an image of more than 32,766 pixels a side."""
    (found,) = finder.find_all(astronaut)
    wide = np.zeros((512, 40_000, 3), np.uint8)
    wide[:, 30_000:30_512] = astronaut
    moved = dataclasses.replace(found, points=found.points + np.array([30_000, 0, 0], np.float32))
    near = dataclasses.replace(found, points=found.points + np.array([600, 0, 0], np.float32))
    whole, part = align(wide, moved, 128), align(wide[:, 29_400:31_000], near, 128)
    assert np.abs(whole.image.astype(int) - part.image).max() <= 1
    np.testing.assert_allclose(whole.points, part.points, atol=0.05)
    tall = align(np.ascontiguousarray(wide.transpose(1, 0, 2)), moved_down(found), 128)
    assert tall.image.any()


def moved_down(found: Detection) -> Detection:
    return dataclasses.replace(found, points=found.points[:, [1, 0, 2]] + np.array([0, 30_000, 0], np.float32))


def test_alignment_follows_the_ffhq_template(face: Face) -> None:
    eyes = [face.points[list(eye), :2].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)]
    mouth = face.points[list(MOUTH_CORNERS), :2].mean(0)
    between = (eyes[0] + eyes[1]) / 2
    side = max(2 * np.hypot(*(eyes[1] - eyes[0])), 1.8 * np.hypot(*(mouth - between)))
    np.testing.assert_allclose(side, 128, rtol=1e-3)  # the frame is twice as wide
    np.testing.assert_allclose(between + 0.1 * (mouth - between), [128, 128], atol=0.1)
    assert eyes[0][0] < eyes[1][0] and abs(eyes[0][1] - eyes[1][1]) < 0.04 * 256


def test_alignment_turns_and_shifts_with_the_photo(finder: FaceFinder, astronaut: Photo) -> None:
    """The same detection in a photo turned by a quarter gives the same upright crop."""
    (upright,) = finder.find_all(astronaut)
    turned = upright.points.copy()
    turned[:, 0], turned[:, 1] = upright.points[:, 1], 512 - upright.points[:, 0]
    quarter = align(np.rot90(astronaut).copy(), type(upright)(turned, upright.blendshapes, upright.pose), 128)
    plain = align(astronaut, upright, 128)
    assert np.abs(quarter.image.astype(int) - plain.image).max() <= 2
    np.testing.assert_allclose(quarter.points, plain.points, atol=1e-3)


def test_points_lie_on_the_aligned_image(finder: FaceFinder, face: Face) -> None:
    """The landmarks carried through the alignment are where a fresh look at the aligned image finds them."""
    (again,) = finder.find_all(face.image)
    distance = np.linalg.norm(again.points[:, :2] - face.points[:, :2], axis=1)
    assert distance.mean() < 2 and distance.max() < 8


def test_the_frame_has_square_pixels(face: Face) -> None:
    frame = ffhq_frame(face.points)
    assert frame[:, 0] @ frame[:, 1] == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(frame[:, 0]) == pytest.approx(np.linalg.norm(frame[:, 1]))


def test_a_resized_face_keeps_its_proportions(face: Face) -> None:
    half = face.resized(128)
    assert half.image.shape == (128, 128, 3)
    np.testing.assert_allclose(half.points * 2, face.points, rtol=1e-6)
    assert face.resized(256) is face


def turn(axis: int, degrees: float) -> NDArray[np.float32]:
    """A pose turned about x, y or z by the right-hand rule (x right, y up, z to the viewer)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    pose = np.eye(4, dtype=np.float32)
    one, two = (axis + 1) % 3, (axis + 2) % 3
    pose[one, one], pose[one, two], pose[two, one], pose[two, two] = c, -s, s, c
    return pose


@pytest.mark.parametrize("degrees", [-60, -20, 0, 35, 80])
def test_head_angles_of_single_turns(degrees: float) -> None:
    assert head_angles(turn(1, degrees)) == pytest.approx((degrees, 0, 0), abs=1e-3)
    assert head_angles(turn(0, -degrees)) == pytest.approx((0, degrees, 0), abs=1e-3)
    assert head_angles(3 * turn(2, degrees)) == pytest.approx((0, 0, degrees), abs=1e-3)


def test_a_mirrored_photo_turns_the_head_the_other_way(finder: FaceFinder, astronaut: Photo, face: Face) -> None:
    yaw, pitch, roll = face.angles
    mirrored = finder.find(astronaut[:, ::-1].copy(), 256).angles
    assert mirrored == pytest.approx((-yaw, pitch, -roll), abs=4)


def test_blendshapes_are_named_in_mediapipes_order(finder: FaceFinder, astronaut: Photo, face: Face) -> None:
    from facecrafter.estimators._mediapipe import to_image

    result = finder._landmarker.detect(to_image(astronaut))
    assert tuple(shape.category_name for shape in result.face_blendshapes[0]) == BLENDSHAPES
    smile = face.blendshapes[BLENDSHAPES.index("mouthSmileLeft")]
    assert smile > 0.5 and face.blendshapes.shape == (52,) and face.points.shape == (478, 3)


def test_lfw_photos_all_have_their_face(finder: FaceFinder, lfw: Path) -> None:
    for path in sorted(lfw.glob("*/*.jpg")):
        found = finder.find(load_photo(path), 64, "centre", path)
        assert np.hypot((found.box[0] + found.box[2]) / 2 - 125, (found.box[1] + found.box[3]) / 2 - 125) < 40


def test_missing_weights_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(name: str) -> Path:
        raise WeightsError(f"the weights '{name}' are not installed")

    monkeypatch.setattr(face_finder.weights, "locate", locate)
    with pytest.raises(WeightsError, match="face_landmarker"):
        FaceFinder()


ENDINGS = {
    "forgotten": "finder = FaceFinder()",
    "closed twice": "finder = FaceFinder(); finder.close(); finder.close()",
    "in a cycle": "class Holder: pass\nholder = Holder(); holder.me = holder; holder.finder = FaceFinder()",
    "dropped early": "FaceFinder()",
    "left by an exit": "import sys\nfinder = FaceFinder()\ndef run():\n    held = finder\n    sys.exit(0)\nrun()",
    "with a segmenter": "from facecrafter.estimators.person import PersonSegmenter\n"
    "finder, segmenter = FaceFinder(), PersonSegmenter()",
    "used on a photo": "import numpy as np\nfinder = FaceFinder()\nfinder.find_all(np.zeros((300, 300, 3), np.uint8))",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_in_silence(ending: str) -> None:
    program = "from facecrafter.estimators.face_finder import FaceFinder\n" + ENDINGS[ending]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_finders_forgotten_in_a_cycle_are_closed() -> None:
    """Collected together with its own thread pool, MediaPipe's task would wait for ever."""
    code = (
        "import gc, weakref\nfrom facecrafter.estimators.face_finder import FaceFinder\n"
        "first = FaceFinder()\n"  # a traceback that some import keeps holds the first one
        "finder = FaceFinder()\nfinder.itself = finder\nseen = weakref.ref(finder)\n"
        "del finder\ngc.collect()\nprint(seen())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
