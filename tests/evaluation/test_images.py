"""Images are made once, whole, and again only when something that they depend on changed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from facecrafter.errors import FaceCrafterError, OutputError
from facecrafter.evaluation import images
from facecrafter.evaluation.measurements import load_photo
from facecrafter.pipelines.settings import FilledSettings
from facecrafter.request import images_of


def test_what_is_there_is_not_made_again(tmp_path, requests_of, stub_method):
    requests, method = requests_of(7), stub_method()
    made = images.make(method, requests, tmp_path, batch_size=3, progress=False)
    assert method.made == 7
    for path, request in zip(made.paths, requests, strict=True):
        assert np.array_equal(load_photo(path), images_of(method, [request])[0])
        with Image.open(path) as file:
            assert "generated" in file.info["Description"]
    again = stub_method()
    assert images.make(again, requests, tmp_path, progress=False).paths == made.paths
    assert again.made == 0


def test_a_killed_run_goes_on(tmp_path, requests_of, stub_method):
    requests = requests_of(6)

    def dies(image, request):
        if request.seed == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.make(stub_method(paint=dies), requests, tmp_path, batch_size=2, progress=False)
    method = stub_method()
    made = images.make(method, requests, tmp_path, batch_size=2, progress=False)
    assert method.made == 2
    assert all(path.is_file() for path in made.paths)
    assert not list(tmp_path.rglob("*.partial"))
    assert made.seconds > 0


def test_a_damaged_image_is_made_again(tmp_path, requests_of, stub_method):
    requests = requests_of(3)
    made = images.make(stub_method(), requests, tmp_path, progress=False)
    made.paths[1].write_bytes(b"\x89PNG cut")
    method = stub_method()
    again = images.make(method, requests, tmp_path, progress=False)
    assert method.made == 1
    assert np.array_equal(load_photo(again.paths[1]), images_of(method, requests[1:2])[0])


def test_the_time_is_that_of_the_images_asked_for(tmp_path, requests_of, stub_method, monkeypatch):
    clock = iter([0.0, 4.0, 10.0, 11.0])
    monkeypatch.setattr(images.time, "monotonic", lambda: next(clock))
    requests, method = requests_of(3), stub_method()
    assert images.make(method, requests[:2], tmp_path, progress=False).seconds == 2
    assert images.make(method, requests[2:], tmp_path, progress=False).seconds == 1
    assert images.make(method, requests, tmp_path, progress=False).seconds == pytest.approx(5 / 3)


def test_images_are_made_in_the_precision_of_their_device(tmp_path, requests_of, stub_method, monkeypatch):
    computed = []

    def autocast(device, *_, enabled):
        computed.append((device, enabled))
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    images.make(stub_method(), requests_of(2), tmp_path, 1, bfloat16=True, progress=False, device="mps")
    assert computed == [("mps", True)] * 2


def test_equal_requests_are_made_once(tmp_path, requests_of, stub_method):
    method = stub_method()
    made = images.make(method, requests_of(2) * 3, tmp_path, progress=False)
    assert method.made == 2
    assert made.paths[:2] * 3 == made.paths


def test_other_keys_and_other_precision_are_other_images(tmp_path, requests_of, stub_method):
    requests = requests_of(1)
    places = {
        images.make(stub_method(name), requests, tmp_path, bfloat16=half, progress=False).paths[0]
        for name in ("one", "other")
        for half in (False, True)
    }
    assert len(places) == 4


def test_images_of_other_code_are_made_again(tmp_path, requests_of, stub_method, monkeypatch):
    requests, method = requests_of(2), stub_method()
    images.make(method, requests, tmp_path, progress=False)
    monkeypatch.setattr(images, "code", lambda *parts: "changed")
    images.make(method, requests, tmp_path, progress=False)
    assert method.made == 4


def test_a_request_is_all_that_a_method_could_read(requests_of, altered):
    request = requests_of(1)[0]
    name, target = request.digest, request.conditions["landmark"]
    assert requests_of(1)[0].digest == name
    assert altered(request, "identity", name="other", file="elsewhere").digest == name
    changed = [
        altered(request, "identity", embedding=-request.identity.embedding),
        altered(request, "identity", image=255 - request.identity.image),
        altered(request, "landmark", points=target.points + 1),
        altered(request, "landmark", blendshapes=target.blendshapes + 1),
        altered(request, "landmark", angles=target.angles + 1),
        altered(request, "emotion", emotion=target.emotion + 1),
        replace(request, conditions={"emotion": target}),
        replace(request, conditions={"landmark": target}),
        replace(request, conditions={**request.conditions, "gaze": target}),
        replace(request, seed=request.seed + 1),
        replace(request, settings=FilledSettings(1.0, 1.0, 1.0, steps=2, scheduler="dpm", speed="exact")),
    ]
    assert len({name, *(one.digest for one in changed)}) == len(changed) + 1


def test_file_names_are_plain_and_tell_photos_apart(requests_of, altered):
    request = requests_of(1)[0]

    def name(file):
        return images.portrait_name(altered(request, "identity", file=file).identity)

    assert name("A_B/A_B_0001.jpg").startswith("A_B_0001-")
    assert name("é w/ö.mp4#t=1.5").startswith("--mp4-t-1.5-") or name("é w/ö.mp4#t=1.5").startswith("-.mp4-t-1.5-")
    assert name("a/1.jpg") != name("b/1.jpg")
    assert images.request_name(request).endswith("__0.png")


def test_a_full_disk_is_told(tmp_path, requests_of, stub_method):
    (tmp_path / "pictures").write_text("in the way")
    with pytest.raises(OutputError, match="could not be written"):
        images.make(stub_method(), requests_of(1), tmp_path, progress=False)


def test_what_a_method_refuses_passes_through_and_earlier_images_stay(tmp_path, requests_of, stub_method):
    def refuses(image, request):
        if request.seed == 2:
            raise FaceCrafterError("no")

    with pytest.raises(FaceCrafterError, match="no"):
        images.make(stub_method(paint=refuses), requests_of(3), tmp_path, batch_size=1, progress=False)
    assert len(list(tmp_path.rglob("*.png"))) == 2
