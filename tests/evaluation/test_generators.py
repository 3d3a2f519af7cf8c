"""The project's own model and a folder of images as rows of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facecrafter import baselines
from facecrafter.errors import CheckpointError, ConfigError, DataError, PhotoError
from facecrafter.evaluation import generators
from facecrafter.evaluation.config import ControlConfig, MethodConfig, load, run
from facecrafter.evaluation.images import request_name
from facecrafter.faces import landmarks
from facecrafter.models.controls import parameter_count
from facecrafter.pipelines.settings import Settings
from facecrafter.request import Portrait, Request, images_of
from facecrafter.sampling.sampler import Sampler

FAST = Settings(steps=2)
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*/evaluation/*.yaml"))


@pytest.fixture
def asked(prepared):
    portraits = [Portrait.of(prepared, row) for row in range(6)]
    return [
        Request(portraits[0], {"landmark": portraits[1], "emotion": portraits[1]}, 5),
        Request(portraits[2], seed=6),
        Request(portraits[3], {"landmark": portraits[4], "emotion": portraits[5]}, 7),
        Request(portraits[0], {"emotion": portraits[5]}, 8),
    ]


def method(model, conditions=("landmark", "emotion"), settings=FAST):
    return generators.FaceCrafterGenerator(model, "Ours", conditions, settings)


def test_a_image_is_the_samplers_own(small_model, asked):
    request, settings = asked[0], FAST.filled(small_model.scale)
    drawn = landmarks.draw(request.conditions["landmark"].points, 128, small_model.controls.config.landmark_size)
    wanted = Sampler(small_model).generate(
        torch.from_numpy(request.identity.embedding[None]),
        {
            "landmark": torch.from_numpy(drawn)[None].permute(0, 3, 1, 2).float() / 255,
            "emotion": torch.from_numpy(request.conditions["emotion"].emotion[None]),
        },
        settings.guidance,
        2,
        [5],
        settings.scheduler,
        speed=settings.speed,
    )
    wanted = ((wanted + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images_of(method(small_model), [request]), wanted)


def test_a_image_does_not_depend_on_its_neighbours(small_model, asked):
    ours = method(small_model)
    together = images_of(ours, asked).astype(int)
    alone = np.concatenate([images_of(ours, [request]) for request in asked]).astype(int)
    assert np.abs(together - alone).max() <= 1


@pytest.mark.parametrize("conditions", [(), ("landmark",), ("emotion",)])
def test_only_its_own_conditions_are_read(small_model, asked, conditions):
    ours = method(small_model, conditions)
    request = asked[2]
    given = {name: portrait for name, portrait in request.conditions.items() if name in conditions}
    stripped = Request(request.identity, given, request.seed)
    assert np.array_equal(images_of(ours, [request]), images_of(ours, [stripped]))
    assert not np.array_equal(images_of(ours, [request]), images_of(method(small_model), [request]))


def test_conditions_go_where_the_model_is(small_model, asked):
    from dataclasses import replace
    from types import SimpleNamespace

    given = []

    def sample(identity, conditions, seeds, **_):
        given.append({identity.device.type, *(value.device.type for value in conditions.values())})
        return torch.zeros(len(seeds), 3, 8, 8)

    ours = method(replace(small_model, unet=SimpleNamespace(device=torch.device("meta"))))
    ours._sampler = SimpleNamespace(generate=sample)
    assert len(list(ours.generate([asked[0], asked[2]]))) == 2 and given == [{"meta"}]


def test_extra_parameters_are_those_of_the_modules_in_use(small_model):
    both, shape, mood, none = (
        method(small_model, conditions).extra_parameters
        for conditions in (("landmark", "emotion"), ("landmark",), ("emotion",), ())
    )
    assert both == parameter_count([small_model.controls]) == shape + mood
    assert none == 0


def test_the_key_is_of_weights_and_settings(small_model, small_scale):
    from dataclasses import replace

    keys = {
        method(small_model).key,
        method(small_model, ("landmark",)).key,
        method(small_model, settings=Settings(steps=3)).key,
        method(small_model, settings=Settings(steps=2, landmark_scale=9.0)).key,
        method(replace(small_model, controls=None), ()).key,
    }
    assert len(keys) == 5
    assert method(small_model, ("emotion", "landmark"), Settings(steps=2, batch_size=3)).key == method(small_model).key


def test_a_student_is_in_the_key_only_where_it_speaks(small_model):
    from dataclasses import replace

    from facecrafter.models.guidance_student import student_of

    taught = replace(small_model, distilled=student_of(small_model.unet, 2, small_model.scale.name))
    assert method(taught).key == method(small_model).key
    assert method(taught, settings=Settings(steps=2, speed="distilled")).key != method(taught).key


def test_controls_are_not_asked_of_a_base(small_model, tmp_path, asked):
    from dataclasses import replace

    from facecrafter.models.checkpoint import save_model

    save_model(replace(small_model, controls=None), tmp_path)
    with pytest.raises(ConfigError, match="the model of 'Ours' has no controls"):
        generators.open_generator(MethodConfig(name="Ours", model=tmp_path), asked, "dlib")


# --- a folder ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, asked):
    for number, request in enumerate(asked):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / request_name(request))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_gives_the_image_of_each_request(folder, asked):
    ours = generators.FolderGenerator("Theirs", folder, asked, 9)
    assert (ours.size, ours.extra_parameters) == (32, 9)
    assert images_of(ours, asked[::-1])[:, 0, 0, 0].tolist() == [3, 2, 1, 0]


def test_its_key_is_of_the_images(folder, asked):
    before = generators.FolderGenerator("Theirs", folder, asked, 9).key
    assert generators.FolderGenerator("Theirs", folder, asked, 9).key == before
    Image.new("RGB", (32, 32), "white").save(folder / request_name(asked[1]))
    assert generators.FolderGenerator("Theirs", folder, asked, 9).key != before


def test_missing_and_extra_images_are_named(folder, asked):
    missing = request_name(asked[2])
    (folder / missing).rename(folder / "stranger.png")
    with pytest.raises(DataError, match=r"1 missing: .*1 extra: stranger") as outcome:
        generators.FolderGenerator("Theirs", folder, asked, 0)
    assert missing.removesuffix(".png") in str(outcome.value)
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"4 missing"):
        generators.FolderGenerator("Theirs", folder, asked, 0)


def test_two_images_of_one_request_are_one_too_many(folder, asked):
    Image.new("RGB", (32, 32)).save(folder / request_name(asked[0]).replace(".png", ".jpg"))
    with pytest.raises(DataError, match="1 extra"):
        generators.FolderGenerator("Theirs", folder, asked, 0)


def test_images_of_another_size_or_damaged_ones_are_told(folder, asked):
    Image.new("RGB", (32, 30)).save(folder / request_name(asked[3]))
    with pytest.raises(DataError, match=r"32x30; .* must all be 32x32"):
        images_of(generators.FolderGenerator("Theirs", folder, asked, 0), asked)
    (folder / request_name(asked[3])).write_bytes(b"nothing")
    with pytest.raises(PhotoError):
        images_of(generators.FolderGenerator("Theirs", folder, asked, 0), asked)
    with pytest.raises(DataError, match="there is no folder"):
        generators.FolderGenerator("Theirs", folder / "else", asked, 0)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_row_of_a_config_is_opened(model_folder, small_model, asked):
    entry = MethodConfig(name="Ours", model=model_folder, conditions=("landmark",), settings={"steps": 2})
    opened = generators.open_generator(entry, asked, "dlib")
    assert opened.key == method(small_model, ("landmark",)).key
    free = generators.open_generator(entry, asked, "dlib", controls=False)
    assert free.extra_parameters == 0


def test_a_row_that_cannot_be_opened_is_told(model_folder, tmp_path, asked):
    def opened(condition="dlib", **fields):
        return generators.open_generator(MethodConfig(name="Ours", **fields), asked, condition)

    with pytest.raises(ConfigError, match="reads dlib, not arcface"):
        opened("arcface", model=model_folder)
    with pytest.raises(CheckpointError):
        opened(model=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="steps cannot be 'many'"):
        opened(model=model_folder, settings={"steps": "many"})
    with pytest.raises(ConfigError, match="no setting 'stride'"):
        opened(kind="controlnet", model=tmp_path, base=model_folder, settings={"stride": 2})
    with pytest.raises(DataError, match="4 missing"):
        opened(kind="folder", model=tmp_path, extra_parameters=0)


@pytest.mark.parametrize("kind", [*baselines.TRAINED, *baselines.PUBLISHED])
def test_baselines_compute_where_ours_do(kind, tmp_path, asked, monkeypatch):
    outcome = []
    monkeypatch.setattr(generators, "table_device", lambda: "meta")
    monkeypatch.setattr(baselines, "load", lambda *where, **settings: outcome.append((where, settings)))
    entry = MethodConfig(name="Theirs", kind=kind, model=tmp_path, base=tmp_path / "base", settings={"steps": 2})
    generators.open_generator(entry, asked, "dlib", 7)
    assert outcome == [((kind, tmp_path, tmp_path / "base", "meta"), {"batch_size": 7, "steps": 2})]


@pytest.mark.parametrize(
    ("kind", "settings", "outcome"),
    [
        ("controlnet", {"batch_size": 4}, "batch_size is no setting of a method"),
        ("published_ip_adapter_faceid", {"device": "cuda"}, "device is no setting of a method"),
        ("controlnet", {"identity_scale": "3e0"}, "the setting identity_scale cannot be '3e0'"),
        ("published_controlnet", {"steps": 2.5}, "the setting steps cannot be 2.5"),
        ("published_controlnet", {"renders": 3}, "the setting renders cannot be 3"),
        ("published_ip_adapter_faceid", {"prompt": None}, "the setting prompt cannot be None"),
        ("caphuman", {"stride": 2}, "the baseline caphuman has no setting 'stride'"),
        ("facecrafter", {"steps": True}, "the setting steps cannot be True"),
        ("facecrafter", {"scales": 2}, "the setting scales cannot be 2"),
        ("facecrafter", {"scales": {"landmark": 2}}, "the landmark scale is given as `landmark_scale`, not in"),
    ],
)
def test_settings_are_refused_before_anything_is_read(tmp_path, kind, settings, outcome):
    base = {} if kind == "facecrafter" else {"base": tmp_path}
    entry = {"name": "Theirs", "kind": kind, "model": tmp_path, **base, "settings": settings}
    first = {"name": "Ours", "model": "mini"}
    with pytest.raises(ConfigError) as caught:
        run(ControlConfig(data=tmp_path / "none", out=tmp_path / "out", methods=[first, entry]))
    assert str(caught.value).startswith(f"'Theirs': {outcome}")


@pytest.mark.parametrize(
    ("learned", "data", "refused"),
    [
        (None, "emonet_8", False),
        ("emonet_8", None, False),
        ("emonet_8", "emonet_8", False),
        ("emonet_8", "pixels", True),
        ("pixels", "emonet_8", True),
    ],
)
def test_data_with_another_estimators_emotions_than_the_model_learned_is_refused(
    small_model, tmp_path, asked, learned, data, refused
):
    from facecrafter.models.checkpoint import save_model

    small_model.controls.register_to_config(emotion_estimator=learned)
    try:
        save_model(small_model, tmp_path)
    finally:
        small_model.controls.register_to_config(emotion_estimator=None)
    entry = {"name": "Ours", "model": tmp_path}
    generators.open_generator(MethodConfig(**entry, conditions=("landmark",)), asked, "dlib", 16, True, data)
    generators.open_generator(MethodConfig(**entry), asked, "dlib", 16, False, data)
    if not refused:
        assert generators.open_generator(MethodConfig(**entry), asked, "dlib", 16, True, data).name == "Ours"
        return
    with pytest.raises(ConfigError, match=f"'Ours' learned emotions from {learned}, and the data's are from {data}"):
        generators.open_generator(MethodConfig(**entry), asked, "dlib", 16, True, data)


def test_settings_that_are_taken(tmp_path):
    for kind, settings in {
        "facecrafter": {"steps": 3, "identity_scale": 2, "landmark_scale": 1.5, "scheduler": "dpm", "speed": "exact"},
        "ip_adapter": {"steps": None, "condition_scale": 1},
        "published_controlnet": {"renders": "folder", "scheduler": "ddim"},
        "published_ip_adapter_faceid_plus": {"recogniser": "a.onnx", "image_encoder": "clip", "adapter_scale": 0},
    }.items():
        base = {} if kind == "facecrafter" else {"base": tmp_path}
        generators.check_settings(MethodConfig(name="One", kind=kind, model=tmp_path, settings=settings, **base))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_settings_of_the_projects_own_configs_are_taken(path):
    for entry in load(path).methods:
        generators.check_settings(entry)


def test_notes(folder, asked):
    entry = MethodConfig(
        name="Theirs", kind="folder", model=folder, extra_parameters=0, of="published_instantid", note="Hello."
    )
    outcome = generators.note(entry, generators.open_generator(entry, asked, "dlib"))
    assert outcome.startswith("InstantID has a pipeline") and outcome.endswith("made elsewhere. Hello.")
