"""What the API takes and gives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_IMAGES, MOST_PHOTOS = 8, 12
MOST_BEST_OF = 8
MOST_STEPS = 100
MOST_PREVIEW_STEPS = 8  # it goes before everybody's images
MOST_SEED = 2**53 - 1 - MOST_IMAGES  # the largest whole number that JavaScript keeps
PHOTO_ID = r"^[0-9a-f]{64}$"

Status = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PhotoId = Annotated[str, Field(pattern=PHOTO_ID, description="From /v1/photos.")]


class InlinePhoto(BaseModel):
    """A photo inside a JSON request."""

    model_config = ConfigDict(extra="forbid")
    base64: str = Field(description="The file's bytes.", min_length=1, max_length=48_000_000)
    name: str = Field(default="photo", max_length=255, description="What the image's metadata calls it.")


Photo = PhotoId | InlinePhoto
FaceNumber = Annotated[int, Field(ge=1, le=50)]
FacePoint = tuple[Annotated[float, Field(ge=0, le=1e5)], Annotated[float, Field(ge=0, le=1e5)]]
FacePick = FaceNumber | FacePoint


class PoseNumbers(BaseModel):
    """Where the head looks, in degrees."""

    model_config = ConfigDict(extra="forbid")
    yaw: Finite = Field(default=0.0, ge=-45, le=45, description="To the image's right.")
    pitch: Finite = Field(default=0.0, ge=-30, le=30, description="Up.")
    roll: Finite = Field(default=0.0, ge=-30, le=30, description="Counter-clockwise in the image.")


class ImageRequest(BaseModel):
    """Images of a person. What is left out is the model's own, as on the command line."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "identity": [{"name": "me.jpg", "base64": "/9j/4AAQSkZJRg=="}],
                    "pose": {"yaw": 20},
                    "emotion": "sad:0.8",
                    "n": 4,
                    "seed": 7,
                    "best_of": 2,
                }
            ]
        },
    )
    identity: list[Photo] = Field(
        default_factory=list, max_length=MOST_PHOTOS, description="Photos of the person; several are averaged."
    )
    target: Photo | None = Field(default=None, description="Whose pose, expression and emotion to take.")
    landmarks_from: Photo | None = Field(default=None, description="Whose pose and expression to take.")
    emotion_from: Photo | None = Field(default=None, description="Whose emotion to take.")
    face: FacePick | None = Field(default=None, description="Which face of the identity's one photo: 1 is the largest.")
    target_face: FacePick | None = None
    pose: PoseNumbers | None = None
    expression: dict[Annotated[str, Field(max_length=40)], Finite] = Field(
        default_factory=dict, max_length=60, description="Blendshapes by name, see /v1/controls."
    )
    preset: str | None = Field(default=None, max_length=80)
    start: Literal["neutral", "keep", "relative"] = Field(
        default="neutral",
        description="Numbers start from the neutral face, the photo's expression, or its pose and expression.",
    )
    emotion: dict[Annotated[str, Field(max_length=40)], Finite] | Annotated[str, Field(max_length=400)] | None = Field(
        default=None, description="In words: 'happy:0.8,surprise:0.2', or the same as an object."
    )
    valence: Finite | None = Field(default=None, ge=-1, le=1)
    arousal: Finite | None = Field(default=None, ge=-1, le=1)
    emotion_through: Literal["both", "landmarks", "module"] | None = None
    identity_scale: Finite | None = Field(default=None, ge=-20, le=20)
    landmark_scale: Finite | None = Field(default=None, ge=-20, le=20)
    emotion_scale: Finite | None = Field(default=None, ge=-20, le=20)
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    scheduler: str | None = Field(default=None, max_length=20)
    speed: str | None = Field(default=None, max_length=20)
    n: int = Field(default=1, ge=1, le=MOST_IMAGES)
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    best_of: int = Field(
        default=1,
        ge=1,
        le=MOST_BEST_OF,
        description="Make so many of each image; keep the closest that is no less like the person than the first.",
    )
    strict: bool = Field(default=False, description="Refuse what would not be followed, in place of a note.")
    free: bool = Field(
        default=False,
        description="Without conditions, leave the pose to the model; else each seed draws a plausible one.",
    )
    sweep: list[Annotated[str, Field(max_length=80)]] = Field(
        default_factory=list, max_length=2, description="NAME=FIRST:LAST:COUNT; one is a strip, two are a grid."
    )
    loop: bool = Field(default=False, description="With one sweep, an animated loop too.")
    preview: bool = Field(
        default=False,
        description="One image of few steps, which goes before others, is not read back, and is not kept for long.",
    )


# What the fields want that take several kinds of values, for errors.
WANTED = {
    "identity": 'ids from POST /v1/photos, or photos as {"base64": ..., "name": ...}, in a list',
    **dict.fromkeys(
        ("target", "landmarks_from", "emotion_from"),
        'an id from POST /v1/photos, or a photo as {"base64": ..., "name": ...}',
    ),
    **dict.fromkeys(("face", "target_face"), "the number of a face, from 1 to 50, or a point in it as [x, y]"),
    "emotion": 'words as "happy:0.8,surprise:0.2", or the same as an object',
}


class Error(BaseModel):
    """Why a request is refused, or what became of a job."""

    error: str = Field(examples=["no_face"])
    message: str = Field(examples=["no face found in me.jpg (640x480)"])


class Emotions(BaseModel):
    """What a face expresses, as a network reads it."""

    label: str
    valence: float
    arousal: float
    probabilities: dict[str, float]


class Reading(BaseModel):
    """A face as networks read it."""

    pose: dict[str, float]
    expression: dict[str, float]
    emotion: Emotions
    box: list[float] = Field(description="Left, top, right, bottom in pixels.")
    identity: float | None = Field(
        default=None, description="Of a generated image: cosine to the identity's photos, the mean over them."
    )
    identity_by: str | None = Field(
        default=None, description="The recogniser that compared them, which is not the model's.", examples=["sface"]
    )


class PhotoView(BaseModel):
    """A photo that the server holds in memory."""

    photo: str = Field(description="Its id, a hash of its content and name.")
    name: str
    width: int
    height: int
    faces: list[Reading] = Field(description="The largest first.")
    chosen: int = Field(description="The number of the face that is used where none is picked; 1 is the largest.")
    notes: list[str] = Field(description="What makes it a poor photo of a person.")


class FileView(BaseModel):
    """A file that a job made."""

    name: str = Field(examples=["00007.png"])
    url: str
    kind: Literal["image", "strip", "loop"]
    seed: int | None = None
    asked: str = Field(default="", description="Which value of a sweep it is.")
    got: Reading | None = None


class JobView(BaseModel):
    """A job: images that are asked for, in work, or made."""

    id: str
    status: Status
    progress: float = Field(ge=0, le=1)
    ahead: int = Field(description="Jobs that come before it.")
    created: float = Field(description="Seconds since 1970.")
    seconds: float | None = Field(default=None, description="That making it took.")
    request: dict[str, Any] = Field(description="As it was asked for; photos by their ids.")
    photos: dict[str, str] = Field(default_factory=dict, description="What the photos are called, by id.")
    error: str | None = None
    message: str | None = None
    notes: list[str] = Field(default_factory=list)
    files: list[FileView] = Field(default_factory=list)
    command: str = Field(default="", description="Makes the same files on the command line.")
    python: str = Field(default="", description="Makes the same images in Python.")


class Limits(BaseModel):
    """What this server takes."""

    images: int = MOST_IMAGES
    photos: int = MOST_PHOTOS
    best_of: int = MOST_BEST_OF
    photo_bytes: int
    waiting: int


class ModelView(BaseModel):
    """The model that the server runs."""

    name: str
    scale: str
    size: int = Field(description="Side of an image in pixels.")
    device: str
    precision: str
    digest: str
    speeds: list[str]
    schedulers: list[str]
    defaults: dict[str, float | int | str]
    preview: dict[str, int | str] = Field(description="Settings of a preview.")
    private: bool
    limits: Limits


class Models(BaseModel):
    """The models that a request can be made to."""

    models: list[ModelView]


class Control(BaseModel):
    """A number that can be asked for."""

    name: str
    group: str
    words: str
    least: float
    most: float
    sides: list[str] = Field(description="The blendshapes that it stands for.")
    live: bool = Field(description="Whether MediaPipe reads it in photos.")
    correlation: float | None = Field(description="Between asked and read, where it was measured.")
    slope: float | None


class EmotionPlace(BaseModel):
    """A class of emotion, and where it lies on the plane."""

    name: str
    valence: float
    arousal: float


class Controls(BaseModel):
    """All that can be asked for by numbers and words."""

    pose: list[Control]
    expression: list[Control]
    presets: dict[str, dict[str, float]]
    emotions: list[EmotionPlace]


class Health(BaseModel):
    """Whether the server works, and how busy it is."""

    status: Literal["ok"] = "ok"
    version: str
    waiting: int
    most_waiting: int
    running: bool
