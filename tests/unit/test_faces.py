"""One face in a photo, through both detectors: where it is, who it is, and what is refused."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pipelines.errors import LoadError
from pipelines.faces.align import TEMPLATE, align
from pipelines.faces.analysis import FaceAnalysis, load_faces
from pipelines.faces.haar import ARCFACE, HaarDetector, five_points
from pipelines.faces.onnx import require_provider
from pipelines.faces.scrfd import ScrfdDetector
from pipelines.profile import Profile
from scripts.make_skinblob import TARGET, make_model
from weights.store import tiny_root

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
GOLDEN = ROOT / "tests" / "golden" / "pulid" / "cases"
SCRFD = Profile(device="cpu", detector="scrfd")
HAAR = Profile(device="cpu", detector="haar", tiny=True)


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.open(ROOT / "scripts" / "data" / "astronaut.png").convert("RGB")


@pytest.fixture(scope="module")
def antelope(tmp_path_factory) -> Path:
    """A folder like the real antelopev2: a detector with SCRFD's nine outputs, and the tiny recogniser."""
    folder = tmp_path_factory.mktemp("antelopev2")
    shutil.copy(DATA / "det_skinblob.onnx", folder / "scrfd_10g_bnkps.onnx")
    shutil.copy(tiny_root() / "antelopev2" / "glintr100.onnx", folder)
    return folder


@pytest.fixture(scope="module", params=["scrfd", "haar"])
def faces(request, antelope) -> FaceAnalysis:
    return load_faces(antelope, SCRFD if request.param == "scrfd" else HAAR)


def test_the_hand_made_detector_is_what_its_script_makes():
    assert DATA / "det_skinblob.onnx" == TARGET
    assert make_model().SerializeToString(deterministic=True) == TARGET.read_bytes()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_astronaut_has_one_face_with_its_eyes_where_they_are(faces, astronaut):
    face = faces.largest(astronaut)

    assert face is not None
    np.testing.assert_allclose(face.bbox, [177, 66, 272, 172], atol=13)
    np.testing.assert_allclose(face.kps[:2], [[201, 101], [246, 103]], atol=5)
    assert (face.bbox.shape, face.kps.shape, face.embedding.shape) == ((4,), (5, 2), (512,))
    assert face.bbox.dtype == face.kps.dtype == face.embedding.dtype == np.float32
    assert 0.5 <= face.score <= 1


def test_the_embedding_is_raw_and_tells_pictures_apart(faces, astronaut):
    face, larger = faces.largest(astronaut), faces.largest(astronaut.resize((1024, 1024)))
    mirrored = faces.largest(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    assert np.isfinite(face.embedding).all()
    assert 15 < np.linalg.norm(face.embedding) < 25
    assert cosine(face.embedding, larger.embedding) > 0.95
    assert cosine(face.embedding, mirrored.embedding) < 0.7


@pytest.mark.parametrize("name", ["coffee.png", "rocket.jpg"])
def test_a_picture_of_things_has_no_face(faces, name):
    assert faces.largest(Image.open(DATA / name)) is None


@pytest.mark.parametrize("size", [(512, 512), (1, 1), (3000, 2), (2, 3000)])
def test_a_black_picture_of_any_shape_has_no_face(faces, size):
    assert faces.largest(Image.new("RGB", size)) is None


def test_a_cat_is_no_face_to_the_cascade(antelope):
    assert load_faces(antelope, HAAR).largest(Image.open(DATA / "chelsea.png")) is None


def test_a_photo_with_transparency_is_read_as_rgb(faces, astronaut):
    face, opaque = faces.largest(astronaut.convert("RGBA")), faces.largest(astronaut)
    np.testing.assert_array_equal(face.embedding, opaque.embedding)


def test_of_two_faces_the_larger_one_is_taken(faces, astronaut):
    double = Image.new("RGB", (768, 512))
    double.paste(astronaut.resize((256, 256)), (512, 0))
    double.paste(astronaut, (0, 0))

    x1, y1, x2, y2 = faces.largest(double).bbox
    assert (x1 + x2) / 2 == pytest.approx(223, abs=15)
    assert (x2 - x1) * (y2 - y1) > 80 * 80


def test_a_face_that_fills_the_photo_is_found_with_a_margin(antelope, astronaut):
    x, y = 181, 76
    close = astronaut.crop((x, y, 268, 157))
    detector = HaarDetector()
    assert detector.detect(np.asarray(close)[..., ::-1].copy(), 640) == []

    face = load_faces(antelope, HAAR).largest(close)

    np.testing.assert_allclose(face.kps[:2], [[201 - x, 101 - y], [246 - x, 103 - y]], atol=6)


def test_the_second_look_maps_scrfds_points_back_to_the_photo(antelope):
    """A drawn face larger than the hand-made detector's largest window."""
    drawn = np.full((512, 512, 3), 40, np.uint8)
    cv2.ellipse(drawn, (256, 256), (200, 250), 0, 0, 360, (225, 175, 150), -1)
    detector = ScrfdDetector(antelope, "cpu")
    assert detector.detect(drawn[..., ::-1].copy(), 640) == []

    face = load_faces(antelope, SCRFD).largest(Image.fromarray(drawn))

    np.testing.assert_allclose(face.bbox, [56, 6, 456, 506], atol=15)
    np.testing.assert_allclose(face.kps.mean(axis=0), [256, 241], atol=15)


def test_every_input_size_has_its_session_after_loading(antelope):
    """So that no session is opened, and falls back, in the middle of a request."""
    detector = ScrfdDetector(antelope, "cpu")
    assert set(detector._model.resolution_sessions) == {(side, side) for side in (256, 384, 640)}


def test_a_retry_leaves_no_trace_on_the_detector(faces, astronaut):
    before = faces.largest(astronaut)
    faces.largest(Image.new("RGB", (64, 64)))
    after = faces.largest(astronaut)

    np.testing.assert_array_equal(before.bbox, after.bbox)
    np.testing.assert_array_equal(before.embedding, after.embedding)


def test_two_threads_get_what_one_gets(faces, astronaut):
    alone = faces.largest(astronaut)
    start = threading.Barrier(2)

    def ask(_: int):
        start.wait()
        return [faces.largest(astronaut) for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        together = [face for found in pool.map(ask, range(2)) for face in found]
    for face in together:
        np.testing.assert_array_equal(face.embedding, alone.embedding)


def test_the_crop_puts_the_eyes_on_the_template(faces, astronaut):
    face = faces.largest(astronaut)
    marked = np.asarray(astronaut).copy()
    for x, y in face.kps[:2]:
        cv2.circle(marked, (round(float(x)), round(float(y))), 2, (0, 255, 0), -1)

    crop = faces.crop(Image.fromarray(marked), face).astype(int)

    assert (crop.shape, faces.crop(astronaut, face).dtype) == ((512, 512, 3), np.uint8)
    green = (crop[..., 1] > 180) & (crop[..., 0] < 90) & (crop[..., 2] < 90)
    ys, xs = np.nonzero(green)
    for eye, side in zip(TEMPLATE[:2], (xs < 256, xs >= 256), strict=True):
        np.testing.assert_allclose([xs[side].mean(), ys[side].mean()], eye, atol=14)


def test_outside_the_photo_the_crop_is_facexlibs_gray(faces, astronaut):
    face = faces.largest(astronaut)
    x1, y1, x2, y2 = (round(float(v)) for v in face.bbox)
    near = Image.fromarray(np.asarray(astronaut)[y1:y2, x1:x2])
    moved = type(face)(face.bbox, face.kps - face.bbox[:2].round(), face.score, face.embedding)

    assert faces.crop(near, moved)[0, 0].tolist() == [132, 133, 135]


@pytest.mark.parametrize("case", json.loads((GOLDEN / "refs" / "refs.json").read_text()), ids=lambda case: case["file"])
def test_the_crop_is_what_pulid_cut_out(case):
    """Tolerance of pulid.md §0.5: OpenCV versions warp differently."""
    golden = load_file(GOLDEN / f"{Path(case['file']).stem}.safetensors")
    height, width = case["resized_hw"]
    photo = np.asarray(Image.open(GOLDEN / case["file"]).convert("RGB"))
    if photo.shape[:2] != (height, width):
        photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_LANCZOS4)
    centre = np.array(photo.shape[1::-1]) / 2
    boxes = [np.array(face["bbox"]) for face in case["faces"]]
    nearest = min(range(len(boxes)), key=lambda i: float(np.linalg.norm((boxes[i][:2] + boxes[i][2:]) / 2 - centre)))

    crop = align(photo, np.array(case["faces"][nearest]["landmarks5"], np.float32))

    difference = np.abs(crop[..., ::-1].astype(int) - golden["aligned_bgr"].astype(int))
    assert difference.max() <= 8
    assert difference.mean() <= 0.1


def test_keypoints_that_coincide_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        align(np.zeros((64, 64, 3), np.uint8), np.full((5, 2), 7, np.float32))


def test_five_points_follow_the_eyes():
    turned = (ARCFACE @ np.array([[0.0, 2.0], [-2.0, 0.0]]) + [300, 10]).astype(np.float32)
    np.testing.assert_allclose(five_points(turned[:2]), turned, atol=1e-3)


@pytest.mark.parametrize("name", ["scrfd_10g_bnkps.onnx", "glintr100.onnx"])
def test_a_missing_file_is_named(antelope, tmp_path, name):
    folder = Path(shutil.copytree(antelope, tmp_path / "antelopev2"))
    (folder / name).unlink()
    with pytest.raises(LoadError, match=f"antelopev2/{name} is missing"):
        load_faces(folder, SCRFD)


def test_a_nested_folder_from_the_zip_is_explained(antelope, tmp_path):
    shutil.copytree(antelope, tmp_path / "antelopev2" / "antelopev2")
    with pytest.raises(LoadError, match="one folder too deep"):
        load_faces(tmp_path / "antelopev2", SCRFD)


def test_a_broken_file_is_named(antelope, tmp_path):
    folder = Path(shutil.copytree(antelope, tmp_path / "antelopev2"))
    (folder / "glintr100.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(LoadError, match=r"glintr100\.onnx cannot be opened"):
        load_faces(folder, SCRFD)


def test_swapped_files_are_refused(antelope, tmp_path):
    shutil.copy(antelope / "scrfd_10g_bnkps.onnx", tmp_path / "glintr100.onnx")
    shutil.copy(antelope / "glintr100.onnx", tmp_path / "scrfd_10g_bnkps.onnx")
    with pytest.raises(LoadError, match="is not a SCRFD model"):
        load_faces(tmp_path, SCRFD)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="needs the CPU onnxruntime"
)
@pytest.mark.parametrize("detector", ["scrfd", "haar"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_by_a_cpu_onnxruntime_and_never_replaced(antelope, device, detector):
    with pytest.raises(LoadError, match=r"onnxruntime-gpu\[cuda,cudnn\]"):
        load_faces(antelope, Profile(device=device, detector=detector))


def test_a_session_that_fell_back_is_refused(antelope):
    """What onnxruntime-gpu does without a driver: the session opens, on the CPU."""
    path = antelope / "glintr100.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with pytest.raises(LoadError, match="chose CPUExecutionProvider"):
        require_provider(path, session, "CUDAExecutionProvider")


def test_an_unknown_device_is_refused(antelope):
    with pytest.raises(LoadError, match="device mps is unknown"):
        load_faces(antelope, Profile(device="mps"))
