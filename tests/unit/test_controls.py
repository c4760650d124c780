"""Control images: what each estimator draws, on which device, when it is loaded, and what is refused."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from pipelines.errors import BadPicture, FeatureNotSupported, LoadError
from pipelines.instantid.controls import SOURCES, Estimators, Source
from pipelines.instantid.depth import as_grey
from pipelines.instantid.endpoint import Control, InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from scripts.make_tiny_estimators import make_all
from weights.store import tiny_root

ROOT = Path(__file__).parents[2]
PROFILE = Profile(device="cpu", dtype="float32", detector="haar", max_side=256, tiny=True)
NAMES = ("canny", "depth", "pose")


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    torch.set_num_threads(1)
    return Image.open(ROOT / "scripts/data/astronaut.png").convert("RGB").resize((256, 256))


@pytest.fixture(scope="module")
def estimators() -> Estimators:
    return Estimators(tiny_root(), PROFILE)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The tiny estimators in a folder of their own, to be broken."""
    for source in SOURCES.values():
        shutil.copytree(tiny_root() / source.checkpoint, tmp_path / source.checkpoint)
    return tmp_path


def test_the_tiny_estimators_are_what_their_script_makes():
    made = make_all()
    for target, content in made.items():
        if target.endswith(".onnx"):
            assert onnx.load_from_string(content) == onnx.load(tiny_root() / target), target
        else:
            assert content == (tiny_root() / target).read_bytes(), target
    assert sum(map(len, made.values())) < 1_500_000


def test_the_tiny_pose_files_have_the_real_signatures():
    """Those of YOLOX 0.1.1rc0 and of DWPose's dw-ll_ucoco_384."""
    people, pose = (onnxruntime.InferenceSession(tiny_root() / "dwpose" / name) for name in SOURCES["pose"].files)
    assert [(one.name, one.shape) for one in people.get_inputs()] == [("images", [1, 3, 640, 640])]
    assert [(one.name, one.shape) for one in people.get_outputs()] == [("output", [1, 8400, 85])]
    assert [(one.name, one.shape) for one in pose.get_inputs()] == [("input", ["N", 3, 384, 288])]
    assert [one.name for one in pose.get_outputs()] == ["simcc_x", "simcc_y"]
    answers = pose.run(None, {"input": np.zeros((2, 3, 384, 288), np.float32)})
    assert [answer.shape for answer in answers] == [(2, 133, 576), (2, 133, 768)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(128, 64), (64, 320)])
def test_a_control_image_has_the_photos_size_and_shows_something(estimators, astronaut, name, size):
    image = estimators.draw(name, astronaut.resize(size))
    assert (image.shape, image.dtype) == ((size[1], size[0], 3), np.uint8)
    assert image.max() > 100
    assert image.min() == 0
    assert image.std() > 3


def test_no_two_kinds_draw_the_same_and_each_follows_the_photo(estimators, astronaut):
    mirrored = astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawn = [estimators.draw(name, photo).astype(int) for name in NAMES for photo in (astronaut, mirrored)]
    for i, one in enumerate(drawn):
        assert all(np.abs(one - other).mean() > 0.05 for other in drawn[:i])


def test_depth_is_stretched_over_all_greys():
    depth = np.array([[-3.0, 1.0], [5.0, 2.0]], np.float32)
    grey = as_grey(depth)
    assert grey[:, :, 0].tolist() == [[0, 127], [255, 159]]
    assert (grey == grey[:, :, :1]).all()


@pytest.mark.parametrize("value", [0.0, 7.5, -1e30])
def test_a_constant_depth_is_black_and_divides_by_nothing(value):
    assert not as_grey(np.full((4, 6), value, np.float32)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_depth_that_is_no_number_is_an_error(value):
    with pytest.raises(BadPicture, match="not a number"):
        as_grey(np.array([[0.0, value]], np.float32))


@pytest.mark.parametrize("name", ["depth", "pose"])
def test_a_missing_estimator_is_a_422_that_names_its_checkpoint(weights, astronaut, name):
    source = SOURCES[name]
    (weights / source.checkpoint / source.files[-1]).unlink()
    with pytest.raises(FeatureNotSupported, match=f"weights pull {source.checkpoint}`") as caught:
        Estimators(weights, PROFILE).draw(name, astronaut)
    assert caught.value.loc == ("controlnet_selection",)
    assert Estimators(weights, PROFILE).draw("canny", astronaut).any()


@pytest.mark.parametrize("name", ["depth", "pose"])
def test_an_estimator_installed_while_the_server_runs_is_used(weights, astronaut, name):
    hidden = weights / "hidden"
    (weights / SOURCES[name].checkpoint).rename(hidden)
    estimators = Estimators(weights, PROFILE)
    with pytest.raises(FeatureNotSupported):
        estimators.draw(name, astronaut)
    hidden.rename(weights / SOURCES[name].checkpoint)
    assert estimators.draw(name, astronaut).any()


@pytest.mark.parametrize(
    ("name", "file"), [("depth", "model.safetensors"), ("pose", "yolox_l.onnx"), ("pose", "dw-ll_ucoco_384.onnx")]
)
def test_a_broken_file_is_named(weights, astronaut, name, file):
    (weights / SOURCES[name].checkpoint / file).write_bytes(b"<html>not found</html>")
    with pytest.raises(LoadError, match=file):
        Estimators(weights, PROFILE).draw(name, astronaut)


def test_swapped_pose_files_are_refused(weights, astronaut):
    people, pose = (weights / "dwpose" / file for file in SOURCES["pose"].files)
    content = people.read_bytes()
    people.write_bytes(pose.read_bytes())
    with pytest.raises(LoadError, match="is not a YOLOX model"):
        Estimators(weights, PROFILE).draw("pose", astronaut)
    people.write_bytes(content)
    pose.write_bytes(content)
    with pytest.raises(LoadError, match="is not an RTMPose model"):
        Estimators(weights, PROFILE).draw("pose", astronaut)


def test_each_estimator_is_loaded_once_and_only_when_it_is_used(monkeypatch, astronaut):
    loaded = []

    def counted(name: str, source: Source) -> Source:
        return replace(source, load=lambda *place: loaded.append(name) or source.load(*place))

    for name, source in list(SOURCES.items()):
        monkeypatch.setitem(SOURCES, name, counted(name, source))
    estimators, start = Estimators(tiny_root(), PROFILE), threading.Barrier(2)

    def ask(_: int) -> np.ndarray:
        start.wait()
        return estimators.draw("pose", astronaut)

    estimators.draw("canny", astronaut)
    assert loaded == []
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(ask, range(2))
    assert np.array_equal(one, other)
    assert loaded == ["pose"]
    for _ in range(2):
        estimators.draw("depth", astronaut)
    assert loaded == ["pose", "depth"]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers() or torch.cuda.is_available(),
    reason="needs a machine without CUDA",
)
@pytest.mark.parametrize("name", ["depth", "pose"])
def test_cuda_is_refused_without_cuda_and_never_replaced(astronaut, name):
    with pytest.raises(LoadError, match="device cuda was asked for"):
        Estimators(tiny_root(), replace(PROFILE, device="cuda")).draw(name, astronaut)


def test_every_selection_steers_the_tiny_pipeline_its_own_way(astronaut):
    pipeline = InstantIDPipeline.load(tiny_root() / "instantid", PROFILE)
    request = InstantIDRequest("a woman", num_inference_steps=1, seed=3, guidance_scale=1.0)
    choices = [(), *((Control(name, 1.0),) for name in NAMES)]
    prepared = [pipeline.prepare(replace(request, controls=choice), [astronaut]) for choice in choices]
    latents = [pipeline.generate([one], lambda *_: False, "raw")[0][0].latents for one in prepared]
    for i, one in enumerate(latents):
        assert all((one - other).abs().max() > 1e-3 * one.abs().max() for other in latents[:i])
