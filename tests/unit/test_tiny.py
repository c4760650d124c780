"""The tiny profile: what it holds, how small it is, and that its ArcFace can be made again."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

from scripts.make_tiny_arcface import TARGET, make_model
from weights.store import tiny_root

CPU = ["CPUExecutionProvider"]


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """(4, 3, 112, 112) float32 in -1..1: noise, smooth noise, a ramp and black."""
    draw = np.random.default_rng(7)
    noise = draw.uniform(-1, 1, (3, 112, 112))
    smooth = np.kron(draw.uniform(-1, 1, (3, 7, 7)), np.ones((16, 16)))
    ramp = np.broadcast_to(np.linspace(-1, 1, 112), (3, 112, 112))
    return np.stack([noise, smooth, ramp, np.full((3, 112, 112), -1.0)]).astype(np.float32)


def run(model: bytes | str, crops: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=CPU)
    return session.run(None, {session.get_inputs()[0].name: crops})[0]


def test_the_recogniser_is_what_its_script_makes(crops):
    np.testing.assert_allclose(run(str(TARGET), crops), run(make_model().SerializeToString(), crops), atol=1e-5)


def test_the_recogniser_has_arcfaces_signature_and_size():
    session = onnxruntime.InferenceSession(str(TARGET), providers=CPU)
    (put,), (get,) = session.get_inputs(), session.get_outputs()
    assert (put.shape, put.type, get.shape) == (["N", 3, 112, 112], "tensor(float)", ["N", 512])
    assert TARGET.stat().st_size < 2_000_000
    assert tiny_root() / "antelopev2" / "glintr100.onnx" == TARGET


def test_insightface_normalises_for_the_recogniser():
    model = ArcFaceONNX(str(TARGET), onnxruntime.InferenceSession(str(TARGET), providers=CPU))
    assert (model.input_mean, model.input_std) == (127.5, 127.5)


def test_embeddings_are_finite_of_raw_length_and_different(crops):
    embeddings = run(str(TARGET), crops)
    lengths = np.linalg.norm(embeddings, axis=1)
    assert np.isfinite(embeddings).all()
    assert (lengths[:3] > 15).all()
    assert (lengths[:3] < 25).all()
    similar = (embeddings @ embeddings.T) / np.outer(lengths, lengths)
    assert (similar[~np.eye(4, dtype=bool)] < 0.6).all()


def test_embeddings_do_not_depend_on_the_batch(crops):
    together = run(str(TARGET), crops)
    alone = np.concatenate([run(str(TARGET), crops[i : i + 1]) for i in range(len(crops))])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_every_embedded_file_is_readable_by_anyone():
    for path in tiny_root().rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o444 == 0o444, path


def test_the_embedded_weights_stay_small():
    assert sum(path.stat().st_size for path in Path(tiny_root()).rglob("*") if path.is_file()) < 27_000_000
