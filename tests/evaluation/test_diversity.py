"""Table 2: with stubs whose numbers are known, and people read from photos."""

from __future__ import annotations

import math
import shutil
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from facecrafter.errors import DataError
from facecrafter.evaluation import config as tables
from facecrafter.evaluation import diversity
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.report import sheet as report


def table(stubbed, *methods, **changes):
    return tables.DiversityConfig(**{"table": "diversity", **stubbed(*methods), "samples": 4, **changes})


def shakes(image, request):
    random = np.random.default_rng(request.seed)
    image[0, :3] = random.integers(100, 150, (3, 1))
    image[1, :12] = random.integers(100, 150, (12, 1))


def test_mean_distances_to_the_others(stub_judges):
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
    made = diversity.distances_to_others(stub_judges(), images)

    def apart(one, other):
        return np.abs(images[one].astype(float) - images[other]).mean() / 255

    for one in range(4):
        assert made[one] == pytest.approx(np.mean([apart(one, other) for other in range(4) if other != one]))
    assert made.mean() == pytest.approx(np.mean([apart(*pair) for pair in combinations(range(4), 2)]))
    assert np.isnan(diversity.distances_to_others(stub_judges(), images[:1])).all()
    assert len(diversity.distances_to_others(stub_judges(), [])) == 0


def test_scores_by_a_plain_loop():
    random = np.random.default_rng(1)
    place, found = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 1, 1, 1, 0, 1], bool)
    rows = {name: random.normal(size=(7, width)) for name, width in (("pose", 3), ("expression", 5), ("identity", 4))}
    for values in rows.values():
        values[~found] = np.nan
    measured = Measurements(found, emotion=np.zeros((7, 10)), **rows)
    own, apart = random.normal(size=(3, 4)), random.random(7)
    made = diversity.scores(measured, own, place, apart)
    for key, name in (("pose_spread", "pose"), ("expression_spread", "expression")):
        for person, members in ((0, [0, 1, 2]), (1, [3, 4])):
            total = sum(np.var(rows[name][members, k], ddof=1) for k in range(rows[name].shape[1]))
            assert made[key][members] == pytest.approx([math.sqrt(total)] * len(members)), person
        assert np.isnan(made[key][5:]).all()
    for row in np.flatnonzero(found):
        assert made["identity_similarity"][row] == pytest.approx(rows["identity"][row] @ own[place[row]])


def test_the_table(stubbed, stub_method):
    config = table(stubbed, stub_method("Varied", shakes), stub_method("Still"))
    outcome = tables.run(config, progress=False)
    varied, still = outcome.methods
    assert (varied.images, outcome.people, outcome.left_out) == (32, 8, [])
    assert still.values["pose_spread"].value == 0 < varied.values["pose_spread"].value
    assert still.values["expression_spread"].value == 0 < varied.values["expression_spread"].value
    assert 0 < still.values["lpips"].value < varied.values["lpips"].value
    assert varied.values["identity_similarity"].value == pytest.approx(1)
    sheet = report.read([config.out])
    assert all(score.target == "" for row in sheet.rows for score in (row.scores or {}).values())
    assert all(len(row.scores or {}) == 32 for row in sheet.rows)


def test_a_face_that_is_not_found_has_no_part_in_its_persons_numbers(stubbed, stub_method):
    def hides(image, request):
        shakes(image, request)
        image[-1, -1] = 100
        if request.seed == 2:
            image[-1, -1] = 7
            image[0, :3] = 255

    def plain(image, request):
        shakes(image, request)
        image[-1, -1] = 100

    config = table(stubbed, stub_method("Hides", hides), stub_method("Plain", plain))
    outcome = tables.run(config, progress=False)
    assert [row.failures for row in outcome.methods] == [1, 0]
    sheet = report.read([config.out])
    hidden, whole = ({score.image[-9:]: score for score in (row.scores or {}).values()} for row in sheet.rows)
    assert hidden["00002.png"].values == {} != whole["00002.png"].values
    assert hidden["00007.png"].values == whole["00007.png"].values
    assert hidden["00001.png"].values["lpips"] != whole["00001.png"].values["lpips"]
    assert hidden["00001.png"].values["pose_spread"] < 1


def test_more_people_than_there_are_is_told(stubbed, stub_method):
    with pytest.raises(DataError, match="41 people are asked for"):
        tables.run(table(stubbed, stub_method(), identities=41), progress=False)


def test_people_whom_the_judges_cannot_see_are_left_out_by_name(stubbed, stub_method, world):
    world.images[: 3 * 20, -1, -1] = 7  # half of those held out
    world.images[3 * 20 :, -1, -1] = 100
    outcome = tables.run(table(stubbed, stub_method(), identities=20), progress=False)
    assert 2 <= outcome.people < 20
    assert outcome.people + len(outcome.left_out) == 20
    assert set(outcome.left_out) <= set(world.files[: 3 * 20])
    assert outcome.methods[0].failures == 0
    assert outcome.methods[0].values["identity_similarity"].value == pytest.approx(1)
    world.images[:, -1, -1] = 7
    with pytest.raises(DataError, match="0 of 20 photos show a face"):
        tables.run(table(stubbed, stub_method(), identities=20), progress=False, overwrite=True)


def test_people_of_a_folder_of_photos(tmp_path, portrait):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(portrait, photos / "eileen.png")
    Image.new("RGB", (80, 80), "grey").save(photos / "nobody.png")
    (photos / "text.jpg").write_text("not an image")
    config = tables.DiversityConfig(
        table="diversity",
        data=tmp_path,
        out=tmp_path,
        methods=[{"name": "a", "model": "mini"}],
        people={"layout": "plain", "folder": photos},
    )
    from facecrafter.evaluation import datasets

    people, left_out = diversity.read(datasets.plain(photos), 128, config, progress=False)
    assert left_out == ["nobody.png", "text.jpg"]
    (one,) = people
    assert (one.name, one.file, one.image.shape) == ("eileen", "eileen.png", (128, 128, 3))
    assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)
    assert one.points[:, :2].min() > 0 and one.points[:, :2].max() < 128
    assert one.emotion[2:].sum() == pytest.approx(1, abs=1e-5)
