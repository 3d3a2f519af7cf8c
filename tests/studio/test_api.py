from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from facecrafter.faces.asked import Pose, asked_of
from facecrafter.faces.face import Face
from facecrafter.pipelines import watermark
from facecrafter.pipelines.generate import FaceCrafter
from facecrafter.pipelines.images import save
from facecrafter.pipelines.missing import generate_many
from facecrafter.pipelines.report_files import measure_all
from facecrafter.pipelines.settings import Settings
from facecrafter.pipelines.sweep import cells, generate_sweep, sweep_of
from facecrafter.request import Request
from facecrafter.studio.photos import photo_id
from facecrafter.studio.worker import Cancelled
from tests.studio.conftest import finished, send

FEW = {"steps": 2, "speed": "exact"}


def test_a_photo_is_read_and_held(client: TestClient, jpeg: bytes) -> None:
    answer = send(client, jpeg, "../../etc/me.jpg")
    found = answer.json()
    assert answer.status_code == 200
    assert (found["name"], found["width"], found["height"]) == ("me.jpg", 512, 512)
    assert (len(found["faces"]), found["chosen"]) == (1, 1)
    assert found["faces"][0]["emotion"]["label"] == "happy"
    assert len(found["faces"][0]["expression"]) == 51 and "jawOpen" in found["faces"][0]["expression"]
    face = client.get(f"/v1/photos/{found['photo']}/face.png")
    assert Image.open(io.BytesIO(face.content)).size == (256, 256)


def test_each_face_of_a_group_is_read_once_and_the_chosen_one_is_named(
    client: TestClient, astronaut: NDArray[np.uint8], crafter: FaceCrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = astronaut[40:240, 120:320]
    group = np.full((320, 960, 3), 128, np.uint8)
    for left, side in ((0, 320), (340, 280), (640, 300)):
        group[:side, left : left + side] = np.asarray(Image.fromarray(face).resize((side, side)))
    content = io.BytesIO()
    Image.fromarray(group).save(content, "PNG")
    searches, find = [], crafter._finder.find_ordered
    monkeypatch.setattr(crafter._finder, "find_ordered", lambda *given: searches.append(given) or find(*given))
    monkeypatch.setattr(crafter, "choose", "centre")
    found = send(client, content.getvalue(), "group.png").json()
    lefts = [one["box"][0] for one in found["faces"]]
    assert len(lefts) == 3 and lefts[0] < 320 < lefts[2] < 640 < lefts[1]
    assert found["chosen"] == 3
    wish = {"identity": [found["photo"]], "preview": True, **FEW}
    jobs = [finished(client, client.post("/v1/images", json=wish).json()["id"]) for _ in range(2)]
    assert jobs[0]["notes"] == jobs[1]["notes"]
    assert any("group.png shows 3 faces; number 3" in note for note in jobs[0]["notes"])
    assert len(searches) == 2  # the chosen face, which is kept, and all of them

    def cancelled(amount: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        crafter.faces_in(group, "group.png", cancelled)


def test_a_large_photo_is_written_to_no_disk(client: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: object) -> None:
        raise AssertionError("a photo was about to be written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refused)
    assert send(client, jpeg + bytes(3 * 2**20), "me.jpg").status_code == 200


def test_perceive_holds_nothing(client: TestClient, jpeg: bytes) -> None:
    found = client.post("/v1/perceive", files={"photo": ("me.jpg", jpeg)}).json()
    assert abs(found["faces"][0]["pose"]["yaw"]) < 45
    gone = client.get(f"/v1/photos/{found['photo']}/face.png")
    assert (gone.status_code, gone.json()["error"]) == (404, "unknown_photo")


def test_a_job_goes_from_queued_to_done_and_gives_marked_images(client: TestClient, jpeg: bytes) -> None:
    photo = send(client, jpeg).json()["photo"]
    wish = {"identity": [photo], "pose": {"yaw": 20}, "emotion": "sad:0.8", "n": 2, "seed": 7, **FEW}
    asked = client.post("/v1/images", json=wish)
    assert asked.status_code == 202
    job = asked.json()
    assert asked.headers["location"] == f"/v1/jobs/{job['id']}"
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1]["status"] == "done"
    assert [one["progress"] for one in events] == sorted(one["progress"] for one in events)
    found = finished(client, job["id"])
    assert [(one["name"], one["kind"], one["seed"]) for one in found["files"]] == [
        ("00007.png", "image", 7),
        ("00008.png", "image", 8),
    ]
    assert found["request"] == {**wish, "pose": {"yaw": 20.0}}
    content = client.get(found["files"][0]["url"])
    assert content.headers["content-type"] == "image/png"
    assert watermark.is_marked(np.asarray(Image.open(io.BytesIO(content.content))))


@pytest.fixture
def on_disk(jpeg: bytes, tmp_path: Path) -> Path:
    (tmp_path / "me.jpg").write_bytes(jpeg)
    return tmp_path / "me.jpg"


def test_images_are_those_of_the_command_line_to_the_byte(
    client: TestClient, jpeg: bytes, on_disk: Path, crafter: FaceCrafter, tmp_path: Path
) -> None:
    wish = {"pose": {"yaw": 15, "pitch": -5}, "expression": {"mouthSmile": 0.5}, "valence": -0.6, "arousal": 0.2}
    files = {"identity": ("me.jpg", jpeg), "request": (None, json.dumps({**wish, "n": 3, "seed": 5, **FEW}))}
    job = finished(client, client.post("/v1/images", files=files).json()["id"])
    asked = asked_of(Pose(yaw=15, pitch=-5), {"mouthSmile": 0.5})
    settings = Settings(**FEW)
    request = crafter.request([on_disk], valence=-0.6, arousal=0.2, seed=5, settings=settings, asked=asked)
    generate_many(crafter, request, 3, tmp_path / "cli")
    images = crafter.generate(
        on_disk,
        pose=Pose(yaw=15, pitch=-5),
        expression={"mouthSmile": 0.5},
        valence=-0.6,
        arousal=0.2,
        n=3,
        seed=5,
        **FEW,
    )
    for image, file in zip(images, job["files"], strict=True):
        own = client.get(file["url"]).content
        assert own == (tmp_path / "cli" / file["name"]).read_bytes()
        save(image, tmp_path / "python" / file["name"])
        assert own == (tmp_path / "python" / file["name"]).read_bytes()


@pytest.mark.parametrize("sweep", [False, True])
def test_the_best_of_several_is_that_of_the_command_line_to_the_byte(
    client: TestClient,
    jpeg: bytes,
    on_disk: Path,
    crafter: FaceCrafter,
    face: Face,
    sweep: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = np.asarray(Image.fromarray(face.image).resize((128, 128), Image.Resampling.LANCZOS))

    def generate(requests: Sequence[Request], progress: Any = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for number, request in enumerate(requests):
            if progress:
                progress(1)
            yield number, small if request.seed > 100 else np.full_like(small, 90)  # the first shows no face

    monkeypatch.setattr(crafter.generator, "generate", generate)
    photo = send(client, jpeg).json()["photo"]
    own = {"sweep": ["yaw=0:20:2"]} if sweep else {"n": 2, "pose": {"yaw": 10}}
    answer = client.post("/v1/images", json={"identity": [photo], "seed": 5, "best_of": 3, **own, **FEW})
    job = finished(client, answer.json()["id"])
    assert (job["status"], job["progress"], job["request"]["best_of"]) == ("done", 1, 3)
    assert "--best-of 3" in job["command"]
    settings = Settings(**FEW)
    if sweep:
        swept = cells(None, [sweep_of("yaw=0:20:2")])
        each = [(name, crafter.request([on_disk], seed=5, settings=settings, asked=asked)) for name, asked in swept]
        generate_sweep(crafter, each, 2, tmp_path / "cli", best_of=3)
    else:
        request = crafter.request([on_disk], seed=5, settings=settings, asked=asked_of(Pose(yaw=10)))
        generate_many(crafter, request, 2, tmp_path / "cli", best_of=3)
    for file in job["files"]:
        content = client.get(file["url"]).content
        assert content == (tmp_path / "cli" / file["name"]).read_bytes()
        if file["kind"] == "image":
            made = json.loads(Image.open(io.BytesIO(content)).info["facecrafter"])
            assert (made["best of"], made["seed of the first"] in (5, 6), made["seed"] > 100) == (3, True, True)


def test_what_is_read_in_an_image_is_what_a_report_of_the_command_line_has(
    client: TestClient,
    jpeg: bytes,
    on_disk: Path,
    crafter: FaceCrafter,
    face: Face,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def generate(requests: Sequence[Request], progress: Any = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for number, request in enumerate(requests):
            side = 128 + request.seed  # each image is a little different
            yield number, np.asarray(Image.fromarray(face.image).resize((side, side), Image.Resampling.LANCZOS))

    monkeypatch.setattr(crafter.generator, "generate", generate)
    photo = send(client, jpeg).json()["photo"]
    wish = {"identity": [photo], "pose": {"yaw": 10}, "expression": {"jawOpen": 0.5}, "emotion": "happy", "n": 2, **FEW}
    job = finished(client, client.post("/v1/images", json=wish).json()["id"])
    asked, settings = asked_of(Pose(yaw=10), {"jawOpen": 0.5}), Settings(**FEW)
    request = crafter.request([on_disk], emotion="happy", settings=settings, asked=asked)
    reports = [report for _, report in measure_all(crafter, generate_many(crafter, request, 2, tmp_path / "cli").jobs)]
    for file, report in zip(job["files"], reports, strict=True):
        got = file["got"]
        assert got["identity"] == report.data()["identity"] > 0.5
        assert got["identity_by"] == report.judge == "sface"
        numbers = {**got["pose"], **got["expression"], **got["emotion"]["probabilities"]}
        assert {row.name for row in report.rows} == {"yaw", "pitch", "jawOpen", "happy"}
        for row in report.rows:
            assert numbers[row.name] == pytest.approx(row.got, abs=0.006)  # angles are rounded to two decimals
    assert len({report.identity for report in reports}) == 2


def test_the_same_photo_has_each_visitors_own_name(client: TestClient, jpeg: bytes) -> None:
    ids = {name: send(client, jpeg, name).json()["photo"] for name in ("ann.jpg", "bob.jpg")}
    for name, photo in ids.items():
        job = client.post("/v1/images", json={"identity": [photo], **FEW, "preview": True}).json()
        assert job["photos"] == {photo: name}
        assert f"--identity {name} " in job["command"]
        file = finished(client, job["id"])["files"][0]
        made = json.loads(Image.open(io.BytesIO(client.get(file["url"]).content)).info["facecrafter"])
        assert made["identity"] == name


def test_two_photos_of_one_name_are_told_apart_in_the_command(
    client: TestClient, jpeg: bytes, astronaut: NDArray[np.uint8], crafter: FaceCrafter, tmp_path: Path
) -> None:
    mirrored = io.BytesIO()
    Image.fromarray(astronaut[:, ::-1]).save(mirrored, "PNG")
    photos = [jpeg, mirrored.getvalue()]
    files: Any = [("identity", ("me.jpg", photo)) for photo in photos]
    files.append(("request", (None, json.dumps({"pose": {"yaw": 10}, "seed": 4, **FEW}))))
    job = finished(client, client.post("/v1/images", files=files).json()["id"])
    words = job["command"].split()
    places = [tmp_path / place for word, place in pairwise(words) if word == "--identity"]
    assert len(set(places)) == 2
    for place, photo in zip(places, photos, strict=True):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(photo)
    asked = asked_of(Pose(yaw=10))
    generate_many(crafter, crafter.request(places, seed=4, settings=Settings(**FEW), asked=asked), 1, tmp_path / "cli")
    assert client.get(job["files"][0]["url"]).content == (tmp_path / "cli" / "00004.png").read_bytes()
    assert str(places[1].relative_to(tmp_path)) in job["notes"][-1]


def test_each_jobs_command_and_python_write_to_a_folder_of_its_own(client: TestClient, jpeg: bytes) -> None:
    wish = {"identity": [send(client, jpeg).json()["photo"]], "preview": True, **FEW}
    folders = set()
    for _ in range(2):
        job = client.post("/v1/images", json=wish).json()
        folder = job["command"].partition(" --out ")[2]
        assert folder == f"out/studio/{job['id'][:8]}"
        assert f'"{folder}/{{seed:05d}}.png"' in job["python"]
        folders.add(folder)
    assert len(folders) == 2


def test_a_sweep_is_that_of_the_command_line_to_the_byte(
    client: TestClient, jpeg: bytes, on_disk: Path, crafter: FaceCrafter, tmp_path: Path
) -> None:
    photo = send(client, jpeg).json()["photo"]
    wish = {"identity": [photo], "sweep": ["yaw=-20:20:3"], "loop": True, "seed": 3, **FEW}
    job = finished(client, client.post("/v1/images", json=wish).json()["id"])
    assert [one["kind"] for one in job["files"]] == ["image"] * 3 + ["strip", "loop"]
    assert job["files"][0]["asked"] == "yaw-20"
    swept = cells(None, [sweep_of("yaw=-20:20:3")])
    settings = Settings(**FEW)
    requests = [(name, crafter.request([on_disk], seed=3, settings=settings, asked=own)) for name, own in swept]
    generate_sweep(crafter, requests, 3, tmp_path / "cli", loop=True)
    for file in job["files"]:
        assert client.get(file["url"]).content == (tmp_path / "cli" / file["name"]).read_bytes()


def test_a_photo_inside_json(client: TestClient, jpeg: bytes) -> None:
    inline = {"name": "me.jpg", "base64": base64.b64encode(jpeg).decode()}
    answer = client.post("/v1/images", json={"identity": [inline], "preview": True, **FEW})
    job = finished(client, answer.json()["id"])
    assert job["status"] == "done"
    assert list(job["photos"].values()) == ["me.jpg"]
    assert job["files"][0]["got"] is None  # a preview is not read back
    assert job["command"].startswith("facecrafter generate --identity me.jpg ")


@pytest.mark.parametrize(
    ("wish", "status", "message"),
    [
        ({}, 422, "at least one photo"),
        ({"identity": ["0" * 64]}, 404, "send it again"),
        ({"identity": ["me.jpg"]}, 422, "identity wants ids from POST /v1/photos"),
        ({"identity": ["PHOTO"], "pose": {"yaw": 90}}, 422, "pose.yaw is 45 at most"),
        ({"identity": ["PHOTO"], "pose": {"yaw": float("nan")}}, 422, "pose.yaw wants a finite number"),
        ({"identity": ["PHOTO"], "expression": {"jawOpn": 0.5}}, 422, "did you mean 'jawOpen'?"),
        ({"identity": ["PHOTO"], "expression": {"jawOpen": 2}}, 422, "from 0 to 1"),
        ({"identity": ["PHOTO"], "preset": "winkk"}, 422, "did you mean 'wink'?"),
        ({"identity": ["PHOTO"], "emotion": "hapy"}, 422, "happy"),
        ({"identity": ["PHOTO"], "valence": 0.5}, 422, "arousal"),
        ({"identity": ["PHOTO"], "n": 9}, 422, "n is 8 at most"),
        ({"identity": ["PHOTO"], "n": 0}, 422, "n is 1 at least"),
        ({"identity": ["PHOTO"], "seed": -1}, 422, "seed is 0 at least"),
        ({"identity": ["PHOTO"], "steps": 0}, 422, "steps is 1 at least"),
        ({"identity": ["PHOTO"], "speed": "warp"}, 422, "unknown speed 'warp'"),
        ({"identity": ["PHOTO"], "sweep": ["yaw"]}, 422, "yaw=-30:30:7"),
        ({"identity": ["PHOTO"], "sweep": ["yaw=0:1:2"], "n": 2}, 422, "leave n out"),
        ({"identity": ["PHOTO"], "loop": True}, 422, "one sweep"),
        ({"identity": ["PHOTO"], "best_of": 0}, 422, "best_of is 1 at least"),
        ({"identity": ["PHOTO"], "best_of": 9}, 422, "best_of is 8 at most"),
        ({"identity": ["PHOTO"], "best_of": 2, "preview": True}, 422, "leave best_of out"),
        ({"identity": ["PHOTO"], "n": 2, "preview": True, "steps": 2}, 422, "leave n out"),
        ({"identity": ["PHOTO"], "preview": True, "steps": 9}, 422, "a preview has at most 8 steps, not 9"),
        ({"identity": ["PHOTO"], "best_of": 2, "free": True}, 422, "nothing to be close to"),
        ({"identity": ["PHOTO"], "free": True, "pose": {"yaw": 0}}, 422, "no effect but with identity alone"),
        ({"identity": ["PHOTO"], "free": True, "emotion": "sad"}, 422, "no effect but with identity alone"),
        ({"identity": ["PHOTO"], "best_of": 8, "sweep": ["yaw=0:20:9"]}, 422, "9 images, each the best of 8, are more"),
        ({"identity": ["PHOTO"], "nonsense": 1}, 422, "there is no 'nonsense'; there are identity, "),
        ({"identity": [{"base64": "§"}]}, 422, "not in base64"),
        ({"identity": ["PHOTO", "PHOTO"], "face": 1}, 422, "picked in one photo"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(
    client: TestClient, wish: dict[str, Any], status: int, message: str, jpeg: bytes
) -> None:
    photo = photo_id(client.studio.photos.add(jpeg, "me.jpg"))  # type: ignore[attr-defined]
    text = json.dumps(wish).replace('"PHOTO"', json.dumps(photo))
    answer = client.post("/v1/images", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, message in answer.json()["message"]) == (status, True), answer.json()


@pytest.mark.parametrize("body", [b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_what_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/images", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("fields", "files", "message"),
    [
        ({"emotion": "sad:0.8"}, ["identity"], "'emotion' is no text field of the form"),
        ({"identity": "0" * 64}, [], "'identity' is no text field"),
        ({}, ["photo"], "no field 'photo' for a file; there are identity, target"),
        ({}, ["request"], "no field 'request' for a file"),
        ({}, ["identity", "target", "target"], "several fields 'target'"),
        ({"request": ["{}", "{}"]}, ["identity"], "several fields 'request'"),
        ({"request": '{"identity": []}'}, ["identity"], "'identity' is in the form and in its field 'request'"),
    ],
)
def test_nothing_in_a_form_is_left_out_silently(
    client: TestClient, fields: dict[str, Any], files: list[str], message: str, jpeg: bytes
) -> None:
    parts: Any = [(name, ("me.jpg", jpeg)) for name in files] or [("request", (None, "{}"))]
    answer = client.post("/v1/images", data=fields, files=parts)
    assert (answer.status_code, message in answer.json()["message"]) == (422, True), answer.json()


def test_a_result_that_cannot_be_kept_fails_the_job_and_not_the_server(
    client: TestClient, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **values: Any) -> None:
        raise OSError("no space left")

    def made() -> dict[str, Any]:
        answer = client.post("/v1/images", files={"identity": ("me.jpg", jpeg)}, data={"request": '{"steps": 1}'})
        return finished(client, answer.json()["id"])

    with monkeypatch.context() as patch:
        patch.setattr(client.studio.store, "change", full)  # type: ignore[attr-defined]
        job = made()
    assert (job["status"], job["error"], job["files"]) == ("failed", "failed", [])
    assert "could not be written" in job["message"]
    assert made()["status"] == "done"


def test_photos_that_cannot_be_read_say_why(client: TestClient, astronaut: NDArray[np.uint8]) -> None:
    assert send(client, b"").json()["message"] == "me.jpg is empty; save or copy it again"
    assert send(client, b"no image").json()["error"] == "photo"
    blank = io.BytesIO()
    Image.new("RGB", (64, 64)).save(blank, "PNG")
    answer = send(client, blank.getvalue(), "blank.png")
    assert (answer.status_code, answer.json()["error"]) == (422, "no_face")
    assert "blank.png" in answer.json()["message"]
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    assert "64 million" in send(client, bomb.getvalue()).json()["message"]
    assert client.post("/v1/photos", data={"photo": "text"}).status_code == 422
    assert client.post("/v1/photos", json={}).status_code == 422


def test_a_photo_without_a_face_fails_the_job_and_not_the_server(client: TestClient) -> None:
    blank = io.BytesIO()
    Image.new("RGB", (64, 64)).save(blank, "PNG")
    answer = client.post("/v1/images", files={"identity": ("blank.png", blank.getvalue())})
    job = finished(client, answer.json()["id"])
    assert (job["status"], job["error"]) == ("failed", "no_face")
    assert client.get("/health").json()["status"] == "ok"


def test_lists(client: TestClient) -> None:
    model = client.get("/v1/models").json()["models"][0]
    assert (model["name"], model["size"], model["private"]) == ("small", 128, True)
    assert "distilled" not in model["speeds"]  # it has no such network
    controls = client.get("/v1/controls").json()
    assert [one["name"] for one in controls["pose"]] == ["yaw", "pitch", "roll"]
    assert {one["name"] for one in controls["expression"]} > {"jawOpen", "mouthSmile"}
    assert next(one for one in controls["expression"] if one["name"] == "mouthSmile")["sides"] == [
        "mouthSmileLeft",
        "mouthSmileRight",
    ]
    assert len(controls["emotions"]) == 8
    assert controls["presets"]["wink"]["eyeBlinkLeft"] == 0.7


def test_a_browser_sees_its_own_jobs_alone(open_client: Callable[..., TestClient], jpeg: bytes) -> None:
    client = open_client()
    other = TestClient(client.app, "http://127.0.0.1:8000", headers=dict(client.headers))
    for one in (client, other):
        page = one.get("/")
        assert page.status_code == 200
        assert "SameSite=lax" in page.headers["set-cookie"]  # so that a link from another site comes with it
    photo = send(client, jpeg).json()["photo"]
    made = [client.post("/v1/images", json={"identity": [photo], **FEW}).json()["id"] for _ in range(2)]
    preview = client.post("/v1/images", json={"identity": [photo], "preview": True, **FEW}).json()["id"]
    for job in (*made, preview):
        finished(client, job)
    assert client.get(f"/v1/jobs/{preview}/files/00000.png").status_code == 200
    assert [one["id"] for one in client.get("/v1/jobs").json()] == made[::-1]
    assert other.get("/v1/jobs").json() == []
    assert client.delete(f"/v1/jobs/{made[0]}").json()["id"] == made[0]
    assert client.get(f"/v1/jobs/{made[0]}").status_code == 404
    assert client.delete("/v1/jobs").status_code == 204
    assert client.get("/v1/jobs").json() == []
    for job in (made[1], preview):
        assert client.get(f"/v1/jobs/{job}").status_code == 404
        assert client.get(f"/v1/jobs/{job}/files/00000.png").status_code == 404
    assert client.delete("/v1/jobs/nothing").status_code == 404
