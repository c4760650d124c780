"""Pose images: people found by YOLOX, their keypoints by DWPose, drawn as OpenPose draws them."""

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import InputError
from pipelines.instantid.people import BORDER, PersonDetector
from pipelines.instantid.pose import Crop, PoseEstimator, read_simcc, to_openpose
from pipelines.instantid.skeleton import COLOURS, LIMBS, canvas_size, draw_bodies
from pipelines.profile import Profile
from scripts.make_tiny_estimators import BODY, SHARE
from weights.store import tiny_root

FOLDER = tiny_root() / "dwpose"
PROFILE = Profile(device="cpu")


@pytest.fixture(scope="module")
def detector() -> PersonDetector:
    return PersonDetector(FOLDER / "yolox_l.onnx", "cpu")


@pytest.fixture(scope="module")
def pose() -> PoseEstimator:
    return PoseEstimator(FOLDER, PROFILE)


def test_the_box_of_a_person_is_found_in_the_photos_own_pixels(detector):
    """The stand-in boxes whatever is bright: a bright rectangle on the border's grey, in photos of two sizes."""
    for scale in (1, 3):
        photo = np.full((640 * scale, 480 * scale, 3), BORDER, np.uint8)
        photo[128 * scale : 512 * scale, 96 * scale : 288 * scale] = 250
        (box,) = detector(photo)
        np.testing.assert_allclose(box / scale, [96, 128, 288, 512], atol=20)
        assert box.dtype == np.float32
    assert detector(np.zeros((64, 64, 3), np.uint8)).shape == (0, 4)


class Rows:
    """A session that answers YOLOX's rows: anchor (grid 2, 1 of stride 8) and others, with these scores."""

    def __init__(self, *found: tuple[int, list[float]]) -> None:
        self.rows = np.zeros((1, 8400, 85), np.float32)
        for index, row in found:
            self.rows[0, index, : len(row)] = row

    def run(self, *_: object) -> list[np.ndarray]:
        return [self.rows]


def test_yolox_is_decoded_by_its_grid_and_double_boxes_are_merged():
    detector = PersonDetector(FOLDER / "yolox_l.onnx", "cpu")
    wide, high = np.log(10), np.log(20)  # of stride 8: 80 x 160 pixels
    detector._session = Rows(
        (80 + 12, [0.5, 20.0, wide, high, 0.9, 0.9]),  # row 1, column 12: centre (12.5, 21) * 8
        (80 + 13, [-0.4, 20.0, wide, high, 0.8, 0.9]),  # nearly the same box
        (6400 + 40 * 3 + 30, [0.0, 0.0, wide, high, 0.9, 0.5]),  # stride 16: centre (30, 3) * 16
        (8000 + 1, [0.0, 0.0, 0.0, 0.0, 0.9, 0.2]),  # too unsure
    )
    boxes = detector(np.zeros((320, 320, 3), np.uint8))  # half of the network's size
    np.testing.assert_allclose(boxes, [[30, 44, 70, 124], [200, -56, 280, 104]], atol=1e-3)


def test_a_crop_keeps_the_boxs_middle_and_takes_the_networks_aspect():
    crop = Crop.around(np.array([10, 20, 50, 100], np.float32), 0.75)
    np.testing.assert_allclose(crop.centre, [30, 60])
    np.testing.assert_allclose(crop.size, [75, 100])
    np.testing.assert_allclose(Crop.around(np.array([0, 0, 80, 40], np.float32), 0.75).size, [100, 400 / 3], rtol=1e-6)


def test_the_body_lies_where_the_network_saw_it_in_the_crop(pose):
    photo = np.full((400, 300, 3), 124, np.uint8)  # nearly ImageNet's mean: the stand-in moves nothing
    body = pose.body(photo, np.array([30, 40, 270, 360], np.float32))
    place = 0.5 + SHARE * (np.array(BODY) - 0.5)
    np.testing.assert_allclose(body[0], place[0] * [300, 400], atol=3)  # nose
    np.testing.assert_allclose(body[1], place[5:7].mean(axis=0) * [300, 400], atol=3)  # neck
    np.testing.assert_allclose(body[2], place[6] * [300, 400], atol=3)  # right shoulder
    np.testing.assert_allclose(body[17], place[3] * [300, 400], atol=3)  # left ear


def test_a_keypoint_is_where_both_axes_peak_and_as_sure_as_the_less_sure_one():
    x, y = np.zeros((2, 8), np.float32), np.zeros((2, 16), np.float32)
    x[0, 6], y[0, 4], x[1, 2], y[1, 8] = 0.9, 0.4, 0.2, 0.7
    points, scores = read_simcc(x, y)
    np.testing.assert_allclose(points, [[0.75, 0.25], [0.25, 0.5]])
    np.testing.assert_allclose(scores, [0.4, 0.2])


def test_openposes_order_is_made_of_cocos_and_a_neck():
    points = np.stack([np.arange(20), 100 + np.arange(20)], axis=1).astype(np.float32)
    body = to_openpose(points, np.ones(20, np.float32))
    assert body[:, 0].tolist() == [0, 5.5, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    hidden = np.ones(20, np.float32)
    hidden[6] = 0.2
    assert np.isnan(to_openpose(points, hidden)[:, 0]).nonzero()[0].tolist() == [1, 2]  # the shoulder and the neck


def test_bodies_are_drawn_in_openposes_colours():
    body = np.full((18, 2), np.nan, np.float32)
    body[[1, 2, 3]] = [[256, 128], [128, 128], [128, 384]]
    image = draw_bodies((512, 512), [body])
    assert image[128, 256].tolist() == list(COLOURS[1])
    assert image[384, 128].tolist() == list(COLOURS[3])
    assert image[128, 192].tolist() == [153, 0, 0]  # neck to right shoulder, 0.6 of the first colour
    assert image[256, 128].tolist() == [int(0.6 * part) for part in COLOURS[2]]  # upper arm, the third limb
    column = image[:, 192].any(axis=1).nonzero()[0]
    assert (column.min(), column.max()) == (124, 132)  # four pixels to each side
    assert len({tuple(map(int, colour)) for colour in image.reshape(-1, 3)} - {(0, 0, 0)}) == 5


def test_every_limb_and_keypoint_has_its_own_colour():
    assert (len(LIMBS), len(COLOURS), len(set(COLOURS))) == (17, 18, 18)
    assert {index for limb in LIMBS for index in limb} == set(range(18))


def test_a_body_is_drawn_at_short_side_512_and_then_resized():
    assert canvas_size((960, 1280)) == (512, 704)
    body = np.full((18, 2), np.nan, np.float32)
    body[0] = [480, 640]
    lit = draw_bodies((960, 1280), [body]).any(axis=2).nonzero()
    assert abs(np.ptp(lit[1]) - 8 * 960 / 512) < 5  # a disc of radius 4, enlarged


def test_what_lies_outside_the_photo_is_cut_off():
    body = np.linspace([-400, -300], [900, 800], 18).astype(np.float32)
    assert draw_bodies((256, 192), [body]).shape == (192, 256, 3)


class Unsure:
    """A pose session that is sure of nothing."""

    def run(self, *_: object) -> list[np.ndarray]:
        return [np.full((1, 133, 576), 0.1, np.float32), np.full((1, 133, 768), 0.1, np.float32)]


def test_a_photo_without_a_body_is_refused_naming_the_photo():
    pose = PoseEstimator(FOLDER, PROFILE)
    pose._session = Unsure()
    with pytest.raises(InputError, match="body's pose") as caught:
        pose(Image.new("RGB", (192, 256)))
    assert caught.value.loc == ("face_image_url",)


def test_a_person_who_fills_the_photo_is_seen_without_a_box(pose):
    dark = Image.new("RGB", (192, 256))
    assert len(pose._people(np.asarray(dark))) == 0
    assert pose(dark).any()
