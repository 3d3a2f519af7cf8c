"""Leakage, curves and shape, on images whose movements are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facecrafter.data.shards import held_out
from facecrafter.errors import DataError
from facecrafter.evaluation import leakage
from facecrafter.evaluation.measurements import Measurements
from facecrafter.evaluation.pairs import choose
from facecrafter.request import images_of


@pytest.fixture
def probes(world):
    people = np.unique(choose(world, 10, 5, 30).identity).tolist()
    return leakage.choose_probes(world, people, 14, seed=3)


def readings_of(judges, images):
    readings = judges.measure(images)
    return Measurements(readings.found, readings.pose, readings.expression, readings.identity, readings.emotion)


def measured(method, judges, probes):
    images = readings_of(judges, images_of(method, [request for probe in probes for request in probe.requests]))
    photos = readings_of(judges, [photo.image for probe in probes for photo in probe.photos])
    return images, photos


def test_a_probe_changes_one_thing_at_a_time(world, probes):
    out = dict(zip(world.files, held_out(world.persons), strict=True))
    assert len(probes) == 14
    assert len({(probe.person.file, probe.other.file) for probe in probes}) == 10
    for number, probe in enumerate(probes):
        assert probe.start.name == probe.changed["landmark"].name and probe.start.file != probe.changed["landmark"].file
        assert len({probe.person.name, probe.other.name, probe.start.name}) == 3
        assert all(out[photo.file] for photo in probe.photos)
        first, *changed = probe.requests
        assert first.conditions["landmark"] is first.conditions["emotion"] is probe.start

        def parts(request):
            given = request.conditions.get
            return {"identity": request.identity, "landmark": given("landmark"), "emotion": given("emotion")}

        differ = [
            [name for name, portrait in parts(one).items() if portrait is not parts(first)[name]] for one in changed
        ]
        assert differ == [["identity"], ["landmark"], ["emotion"], ["landmark"]]
        assert {request.seed for request in probe.requests} == {3 + number}


def test_probes_depend_on_the_seed_alone(world, probes):
    people = np.unique(choose(world, 10, 5, 30).identity).tolist()
    again, other = leakage.choose_probes(world, people, 14, 3), leakage.choose_probes(world, people, 14, 4)
    files = [[photo.file for probe in some for photo in probe.photos] for some in (probes, again, other)]
    assert files[0] == files[1] != files[2]
    assert leakage.choose_probes(world, people, 0, 3) == []


def test_without_a_third_person_the_way_out_is_told(world):
    alone = replace(world, persons=[f"{name} {number}" for number, name in enumerate(world.persons)])
    out = np.flatnonzero(held_out(alone.persons)).tolist()
    assert len(out) > 1
    with pytest.raises(DataError, match="set leakage: 0"):
        leakage.choose_probes(alone, out[:2], 1, 0)


def test_a_method_that_does_what_is_asked_has_the_unit_matrix(probes, stub_method, stub_judges):
    images, photos = measured(stub_method(), stub_judges(), probes)
    outcome = leakage.leakage(images, photos)
    assert np.array(outcome.values) == pytest.approx(np.eye(3), abs=0.01)
    assert (outcome.changed, outcome.probes, outcome.failures) == (["identity", "pose", "emotion"], 14, 0)
    assert leakage.shape_leak(images, photos, [probe.person.name for probe in probes]).value == pytest.approx(0)


def test_a_method_that_copies_the_target_leaks_its_shape(probes, stub_method, stub_judges):
    def copies(image, request):
        if "landmark" in request.conditions:
            image[2] = request.conditions["landmark"].image[2]

    images, photos = measured(stub_method(paint=copies), stub_judges(), probes)
    matrix = np.array(leakage.leakage(images, photos).values)
    assert matrix[0, 0] == pytest.approx(0, abs=1e-6)
    given, free = images.rows(slice(0, None, 5)), images.rows(slice(4, None, 5))
    target = photos.rows(slice(2, None, 5))
    wanted = [
        float(given.identity[row] @ target.identity[row] - free.identity[row] @ target.identity[row])
        for row in range(14)
    ]
    made = leakage.shape_leak(images, photos, [probe.person.name for probe in probes])
    assert made.value == pytest.approx(np.mean(wanted)) and made.value > 0.1
    assert made.low < made.value < made.high


def test_a_method_that_ignores_emotion_moves_nothing_by_it(probes, stub_method, stub_judges):
    def calm(image, request):
        image[3] = request.identity.image[3]

    images, photos = measured(stub_method(paint=calm), stub_judges(), probes)
    matrix = np.array(leakage.leakage(images, photos).values)
    assert matrix[2] == pytest.approx([0, 0, 0], abs=1e-9)
    assert matrix[0, 2] > 0.5  # the person's own mood comes along


def test_the_matrix_by_a_plain_loop():
    random = np.random.default_rng(0)
    moved, real = random.random((6, 3, 4)), random.random((6, 3, 4))
    moved[4, 1, 2] = np.nan
    kept = [0, 1, 2, 3, 5]
    wanted, place = np.empty((3, 3)), (0, 1, 1, 2)  # which change is meant to move each of the four
    for change in range(3):
        ratio = [sum(moved[q, change, m] for q in kept) / sum(real[q, place[m], m] for q in kept) for m in range(4)]
        wanted[change] = ratio[0], (ratio[1] + ratio[2]) / 2, ratio[3]
    assert leakage.matrix(moved, real) == pytest.approx(wanted)
    assert np.isnan(leakage.matrix(moved * np.nan, real)).all()


def test_movements_by_a_plain_loop(probes, stub_judges):
    judges = stub_judges()
    first, second = (
        readings_of(judges, [getattr(probe, name).image for probe in probes]) for name in ("person", "other")
    )
    made = leakage.movements(first, second)
    for row in range(len(probes)):
        assert made[row, 0] == pytest.approx(1 - float(first.identity[row] @ second.identity[row]))
        for place, name in ((1, "pose"), (2, "expression")):
            apart = getattr(first, name)[row] - getattr(second, name)[row]
            assert made[row, place] == pytest.approx(sum(one**2 for one in apart) ** 0.5)
        assert made[row, 3] == pytest.approx(np.mean((first.emotion[row] - second.emotion[row]) ** 2) ** 0.5)


def test_a_face_that_is_not_found_takes_its_probe_along(probes, stub_method, stub_judges):
    lost = probes[2].requests[1].seed

    def hides(image, request):
        image[-1, -1] = 7 if request.seed == lost else 100

    images, photos = measured(stub_method(paint=hides), stub_judges(), probes)
    outcome = leakage.leakage(images, photos)
    assert (outcome.probes, outcome.failures) == (14, 1)
    assert np.array(outcome.values) == pytest.approx(np.eye(3), abs=0.01)


def test_curves_of_a_method_that_follows(probes, stub_method, stub_judges):
    people = [probe.person for probe in probes[:4]]
    requests = leakage.curve_requests(people, seed=5)
    assert len(requests) == 2 * 4 * 9
    assert all("landmark" not in request.conditions for request in requests)
    readings = stub_judges().measure(images_of(stub_method(), requests))
    outcome = leakage.curves(readings.emotion, [person.name for person in people])
    for name in ("valence", "arousal"):
        assert outcome[name].asked == np.linspace(-1, 1, 9).tolist()
        assert outcome[name].perceived == pytest.approx(outcome[name].asked, abs=0.005)
        assert outcome[name].low == pytest.approx(outcome[name].high)


def test_curves_of_a_method_that_does_not(probes, stub_method, stub_judges):
    people = [probe.person for probe in probes[:4]]

    def calm(image, request):
        image[3] = request.identity.image[3]

    readings = stub_judges().measure(images_of(stub_method(paint=calm), leakage.curve_requests(people, 5)))
    readings.emotion[:9] = np.nan  # the first person's valence
    outcome = leakage.curves(readings.emotion, [person.name for person in people])
    own = [float(person.emotion[0]) for person in people]
    assert outcome["valence"].perceived == pytest.approx([np.mean(own[1:])] * 9)
    assert outcome["valence"].low[0] < outcome["valence"].perceived[0] < outcome["valence"].high[0]
