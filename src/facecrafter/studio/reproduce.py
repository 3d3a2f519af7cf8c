"""A request in words that make the same files elsewhere: a command, and Python."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from facecrafter.faces.asked import expression_of
from facecrafter.pipelines.sweep import controls_of, sweep_of
from facecrafter.studio.schema import ImageRequest

SCALES = ("identity_scale", "landmark_scale", "emotion_scale")
PHOTOS = ("target", "landmarks_from", "emotion_from")
DIGITS = 8  # of a job's id, which its folder is called by


def places(names: Mapping[str, str]) -> dict[str, str]:
    """Where a request's photos are expected, by id: each by its name, and the second of one name in the folder ``2``.

    The name itself is in the images' metadata, so that with another one they would not be the same files.

    Args:
        names: what the photos are called, by id.
    """
    counts: dict[str, int] = {}
    found = {}
    for photo, name in names.items():
        like = name.casefold()  # some disks do not tell small letters from large ones
        counts[like] = counts.get(like, 0) + 1
        found[photo] = name if counts[like] == 1 else f"{counts[like]}/{name}"
    return found


def notes(names: Mapping[str, str]) -> list[str]:
    """What somebody who copies a command has to know of :func:`places`."""
    where = places(names)
    return [
        f"several photos are called {name}; the copied command and Python expect number {place.partition('/')[0]} of "
        f"them as {place}"
        for name, place in ((name, where[photo]) for photo, name in names.items())
        if place != name
    ]


def folder(job: str) -> str:
    """Where the copied command and Python of a job write: a folder of its own, as each job's files have the same names.

    Args:
        job: its id.
    """
    return f"out/studio/{job[:DIGITS]}"


def command(request: ImageRequest, names: Mapping[str, str], model: Mapping[str, Any], out: str) -> str:
    """The command line that makes the files of a request.

    Args:
        request: its photos are ids.
        names: what the photos are called, by id; see :func:`places`.
        model: what chooses the model, see :class:`facecrafter.studio.studio.Options`.
        out: the folder of the files; see :func:`folder`.
    """
    words, where = ["facecrafter", "generate"], places(names)
    for photo in request.identity:
        words += ["--identity", where[str(photo)]]
    for name in PHOTOS:
        if (photo := getattr(request, name)) is not None:
            words += [_option(name), where[str(photo)]]
    for name in ("face", "target_face"):
        pick = getattr(request, name)
        if isinstance(pick, int):
            words += [_option(name), str(pick)]
        elif pick is not None:
            words += [_option(name) + "-at", f"{pick[0]:g},{pick[1]:g}"]
    words += _numbers(request) + _sampling(request) + _model(request, model)
    if request.sweep:
        words += [word for sweep in request.sweep for word in ("--sweep", sweep)] + ["--gif"] * request.loop
    else:
        words += ["-n", str(request.n)]
    return shlex.join([*words, "--seed", str(request.seed), "--out", out])


def python(request: ImageRequest, names: Mapping[str, str], model: Mapping[str, Any], out: str) -> str:
    """The same in Python; empty for sweeps, which the command line makes."""
    if request.sweep:
        return ""
    where = places(names)
    people = [where[str(photo)] for photo in request.identity]
    given: dict[str, str] = {}
    for name in PHOTOS:
        if (photo := getattr(request, name)) is not None:
            given[name] = repr(where[str(photo)])
    if request.pose is not None:
        angles = ", ".join(f"{name}={value!r}" for name, value in request.pose.model_dump().items() if value)
        given["pose"] = f"Pose({angles})"
    if request.expression:
        given["expression"] = repr(dict(request.expression))
    if request.start != "neutral":
        given["relative" if request.start == "relative" else "keep_expression"] = "True"
    plain = ("preset", "emotion", "valence", "arousal", "emotion_through", "face", "target_face")
    for name in (*plain, *SCALES, "steps", "scheduler", "speed"):
        if (value := getattr(request, name)) is not None:
            given[name] = repr(value)
    given |= {name: "True" for name in ("strict", "free") if getattr(request, name)}
    if request.best_of > 1:
        given["best_of"] = str(request.best_of)
    given |= {"n": str(request.n), "seed": str(request.seed)}
    options = "".join(f", {name}={value!r}" for name, value in model.items() if name != "model")
    lines = [
        "from facecrafter import FaceCrafter, Pose, save",
        "",
        f"crafter = FaceCrafter.from_pretrained({model['model']!r}{options})",
        "images = crafter.generate(",
        f"    {people[0]!r}," if len(people) == 1 else f"    {people!r},",
        *(f"    {name}={value}," for name, value in given.items()),
        ")",
        f"for seed, image in enumerate(images, {request.seed}):",
        f'    save(image, f"{out}/{{seed:05d}}.png")',
    ]
    return "\n".join(lines) + "\n"


def _numbers(request: ImageRequest) -> list[str]:
    words: list[str] = []
    # The command line refuses a number of what is swept, which has no effect.
    swept = {name for text in request.sweep for name in controls_of(sweep_of(text, request.start == "relative").name)}
    if request.pose is not None:
        for name, value in request.pose.model_dump().items():
            # One of them says that a pose is asked for, and a preset has angles of its own.
            if name not in swept and (value or name == "yaw" or request.preset is not None):
                words += [f"--{name}", f"{value!r}"]
    expression = _unswept(request.expression, swept)
    if expression:
        words += ["--expression", ",".join(f"{name}={value!r}" for name, value in expression.items())]
    if request.preset is not None:
        words += ["--preset", request.preset]
    words += {"neutral": [], "keep": ["--keep-expression"], "relative": ["--relative"]}[request.start]
    if request.emotion is not None:
        text = request.emotion
        if not isinstance(text, str):
            text = ",".join(f"{name}:{value!r}" for name, value in text.items())
        words += ["--emotion", text]
    for name in ("valence", "arousal"):
        if (value := getattr(request, name)) is not None:
            words += [f"--{name}", f"{value!r}"]
    if request.emotion_through is not None:
        words += ["--emotion-through", request.emotion_through]
    return words + ["--strict"] * request.strict + ["--free"] * request.free


def _unswept(expression: Mapping[str, float], swept: Collection[str]) -> dict[str, float]:
    """An expression without the blendshapes that are swept; of a name for both sides the other one is left."""
    left: dict[str, float] = {}
    for name, value in expression.items():
        sides = expression_of({name: value}, least=-1)
        rest = {side: number for side, number in sides.items() if side not in swept}
        left |= {name: value} if len(rest) == len(sides) else rest
    return left


def _sampling(request: ImageRequest) -> list[str]:
    words: list[str] = []
    for name in (*SCALES, "steps", "scheduler", "speed"):
        if (value := getattr(request, name)) is not None:
            words += [_option(name), str(value)]
    return words + ["--best-of", str(request.best_of)] * (request.best_of > 1)


def _model(request: ImageRequest, model: Mapping[str, Any]) -> list[str]:
    """What chooses the model, without what the command line refuses because it has no effect on the request."""
    feeling = request.target or request.emotion_from
    unused = set() if feeling else {"emonet"}
    if request.face is not None and (request.target_face is not None or not (feeling or request.landmarks_from)):
        unused.add("choose")
    words: list[str] = []
    for name, value in model.items():
        if name in unused:
            continue
        if value is True:
            words.append(_option(name))
        elif (name, value) != ("model", "mini"):
            words += [_option(name), str(value)]
    return words


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
