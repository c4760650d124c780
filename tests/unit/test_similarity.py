"""Whether a picture shows the person: the measurement, what it costs, and where its numbers appear."""

from pathlib import Path

import numpy as np
import pytest
import structlog
from PIL import Image

from pipelines.endpoint import Output, Picture
from pipelines.faces.analysis import FaceAnalyser, load_faces
from pipelines.faces.detection import Attempt
from pipelines.faces.similarity import Likeness, cosine
from pipelines.instantid.endpoint import InstantidLcmOutput, InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PulidOutput, PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from server.worker.stages import measured
from weights.store import tiny_root

TINY = tiny_root()
PROFILE = Profile(device="cpu", dtype="float32", detector="haar", max_side=64, tiny=True)
ASTRONAUT = Image.open(Path(__file__).parents[2] / "scripts" / "data" / "astronaut.png").convert("RGB")
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


class Blind:
    """A detector that finds nothing, and counts how often it looked."""

    attempts = (Attempt(), Attempt(padding=0.25), Attempt(padding=0.5))

    def __init__(self):
        self.looks = 0

    def detect(self, bgr, side):
        self.looks += 1
        return []


@pytest.fixture(scope="module")
def faces():
    return load_faces(TINY / "antelopev2", PROFILE)


@pytest.fixture(scope="module")
def embedding(faces):
    return faces.largest(ASTRONAUT).embedding


def vector(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        (vector(1, 2), vector(10, 20), 1.0),
        (vector(1, 2), vector(-1, -2), -1.0),
        (vector(3, 0), vector(0, 4), 0.0),
        (vector(1, 0), vector(1, 1), 0.7071),
        (vector(0, 0), vector(1, 1), None),
        (vector(np.nan, 0), vector(1, 1), None),
        (vector(3e38, 3e38), vector(3e38, 3e38), 1.0),
    ],
)
def test_the_cosine_is_between_minus_one_and_one_whatever_the_lengths(a, b, answer):
    assert cosine(a, b) == answer


def test_the_cosine_never_leaves_its_range_by_rounding():
    draw = np.random.default_rng(3)
    for _ in range(200):
        one = draw.normal(0, 20, 512).astype(np.float32)
        assert cosine(one, one * np.float32(draw.uniform(0.01, 100))) == 1.0


def test_the_reference_photo_is_entirely_like_itself_and_its_mirror_image_less(faces, embedding):
    likeness = Likeness(faces, embedding)
    assert likeness.metrics(np.asarray(ASTRONAUT))["identity_similarity"]() == 1.0
    assert -1 <= likeness.similarity(np.asarray(ASTRONAUT)[:, ::-1]) < 1.0


def test_a_picture_without_a_face_has_no_similarity(faces, embedding):
    assert Likeness(faces, embedding).similarity(NOISE) is None


def test_a_result_is_searched_for_a_face_only_once(embedding):
    detector = Blind()
    faces = FaceAnalyser(detector, recogniser=None)
    assert Likeness(faces, embedding).similarity(NOISE) is None
    assert detector.looks == 1
    faces.largest(ASTRONAUT)
    assert detector.looks == 1 + len(Blind.attempts)


def generate(pipeline, request, *photos):
    prepared = pipeline.prepare(request, photos)
    [pictures] = pipeline.generate([prepared], lambda step, total: False)
    return prepared, pictures


def test_every_picture_of_pulid_is_compared_with_the_first_photo():
    pipeline = PuLIDPipeline.load(TINY / "pulid", PROFILE)
    request = PuLIDRequest("a portrait", num_images=2, num_inference_steps=1, seed=1, width=64, height=64)
    prepared, pictures = generate(pipeline, request, ASTRONAUT, ASTRONAUT.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    for picture in pictures:
        likeness = picture.metrics["identity_similarity"].func.__self__
        assert np.array_equal(likeness.embedding, prepared.embeddings[0])
        assert not np.array_equal(likeness.embedding, prepared.embeddings[1])
        assert np.array_equal(picture.metrics["identity_similarity"].args[0], picture.image)
    _, [nobodys] = generate(pipeline, PuLIDRequest("a wall", num_inference_steps=1, width=64, height=64))
    assert nobodys.metrics == {}


def test_the_picture_of_instantid_is_compared_with_its_photo():
    pipeline = InstantIDPipeline.load(TINY / "instantid", PROFILE)
    request = InstantIDRequest("a portrait", num_inference_steps=1, controls=(), size=(256, 256))
    prepared, [picture] = generate(pipeline, request, ASTRONAUT)
    likeness = picture.metrics["identity_similarity"].func.__self__
    assert np.array_equal(likeness.embedding, prepared.person.embedding)
    _, [nobodys] = generate(pipeline, request)
    assert nobodys.metrics == {}


MEASURED = [{"identity_similarity": 0.5}, {"identity_similarity": None}]


def test_several_pictures_give_a_list_and_the_only_one_a_number():
    assert PulidOutput.metrics(MEASURED) == Output.metrics(MEASURED) == {"identity_similarity": [0.5, None]}
    assert PulidOutput.metrics([{}, {}]) == {}
    assert InstantidLcmOutput.metrics(MEASURED[:1]) == {"identity_similarity": 0.5}


def test_a_measurement_that_fails_is_null_and_said_in_the_log():
    def fail():
        raise RuntimeError("the detector broke")

    picture = Picture(NOISE, 1, {"sharpness": lambda: 0.25, "identity_similarity": fail})
    with structlog.testing.capture_logs() as lines:
        assert measured(picture, "job-1") == {"sharpness": 0.25, "identity_similarity": None}
    [line] = lines
    assert (line["log_level"], line["request_id"], line["metric"]) == ("warning", "job-1", "identity_similarity")
