"""Steps replayed on static buffers give bit for bit what they give as they are: no request sees another's values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models import modeling_utils
from PIL import Image
from torch import Tensor, nn

from pipelines.errors import Cancelled
from pipelines.faces.analysis import Face
from pipelines.instantid.endpoint import Control, InstantIDRequest
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.pulid.endpoint import PuLIDRequest
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.sdxl.graph import Rerun, Runner
from pipelines.sdxl.patience import PAUSES, Patience
from pipelines.sdxl.tree import kind_of, tensors, with_tensors
from scripts.replay_pulid import RecordedFaces

ROOT = Path(__file__).parents[2]
PROFILE = Profile(device="cpu", dtype="float32")
KPS = np.array([[24, 24], [40, 24], [32, 34], [26, 44], [38, 44]], np.float32)
PHOTOS = [Image.new("RGB", (64, 64), (shade, shade, shade)) for shade in (40, 60)]


class FaceByShade:
    """A photo's grey value tells who it shows and where."""

    def largest(self, image: Image.Image, retry: bool = True) -> Face:
        shade = int(np.asarray(image)[0, 0, 0])
        embedding = np.random.default_rng(shade).normal(0, 0.8, 512).astype(np.float32)
        return Face(np.array([shade - 36, 4, shade - 10, 60], np.float32), KPS, 1.0, embedding)

    def crop(self, image: Image.Image, face: Face) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Case:
    """A pipeline; two requests of one kind, a third of another size, each with its photos."""

    pipeline: Any
    requests: tuple[tuple[Any, Sequence[Image.Image]], ...]


@pytest.fixture(scope="module")
def instantid() -> Case:
    torch.set_num_threads(1)
    pipeline = InstantIDPipeline.load(ROOT / "weights/tiny/instantid", PROFILE, faces=FaceByShade())
    one = InstantIDRequest("a man", seed=1, size=(64, 64), num_inference_steps=3, style="(No style)")
    other = replace(
        one,
        prompt="a dog",
        seed=2,
        guidance_scale=1.8,
        ip_adapter_scale=0.3,
        identity_controlnet_conditioning_scale=1.2,
        controls=(Control("canny", 0.9, PHOTOS[0]),),
        num_inference_steps=2,
    )
    wide = replace(one, size=(96, 64))
    return Case(pipeline, ((one, PHOTOS[:1]), (other, PHOTOS[1:]), (wide, PHOTOS[:1])))


@pytest.fixture(scope="module")
def pulid() -> Case:
    torch.set_num_threads(1)
    faces = RecordedFaces(ROOT / "tests/golden/pulid/cases")
    pipeline = PuLIDPipeline.load(ROOT / "weights/tiny/pulid", PROFILE, faces=faces)
    one = PuLIDRequest("portrait", seed=1, width=64, height=64, num_inference_steps=3)
    other = replace(one, prompt="in garden", seed=2, id_scale=2.0, guidance_scale=1.4, num_inference_steps=2)
    wide = replace(one, width=96)
    photos = [faces.photo(0)], [faces.photo(1)], [faces.photo(0)]
    return Case(pipeline, tuple(zip((one, other, wide), photos, strict=True)))


@pytest.fixture(params=["instantid", "pulid"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    case = request.getfixturevalue(request.param)
    yield case
    case.pipeline.runner = Runner()


def draw(case: Case, index: int, on_step: Callable[[int, int], bool] = lambda step, total: False) -> Tensor:
    prepared = case.pipeline.prepare(*case.requests[index])
    (pictures,) = case.pipeline.generate([prepared], on_step, "raw")
    return torch.stack([torch.cat([picture.latents.flatten(), picture.image.flatten()]) for picture in pictures])


def test_replayed_requests_give_what_they_give_as_they_are(case: Case) -> None:
    expected = [draw(case, index) for index in range(3)]
    assert not torch.equal(expected[0], expected[1])
    case.pipeline.runner = runner = Runner(Rerun())
    results, recorded = [], []
    for index in (0, 1, 0, 2, 1, 2, 0):
        results.append((index, draw(case, index)))
        recorded.append(runner.recorded)
    # A step and a decoding of each kind.
    assert recorded == [0, 2, 2, 2, 2, 4, 4], "a kind is recorded when it comes again, whatever its values"
    for index, latents in results:
        assert torch.equal(latents, expected[index])
    assert not runner.failures


def test_a_cancelled_request_leaves_nothing_in_the_buffers(case: Case) -> None:
    expected = [draw(case, index) for index in range(2)]
    case.pipeline.runner = Runner(Rerun())
    draw(case, 0)
    draw(case, 0)
    with pytest.raises(Cancelled):
        draw(case, 1, lambda step, total: step == 1)
    assert torch.equal(draw(case, 0), expected[0])
    assert torch.equal(draw(case, 1), expected[1])


def test_no_request_searches_its_networks_for_hooks(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' `device` and `dtype` look through every module: milliseconds each in a UNet of SDXL's size."""

    def search(net: nn.Module) -> None:
        raise AssertionError(f"{type(net).__name__} was searched")

    for name in ("get_parameter_device", "get_parameter_dtype"):
        monkeypatch.setattr(modeling_utils, name, search)
    assert torch.isfinite(draw(case, 0)).all()


@dataclass(frozen=True)
class Scale:
    """A body: a network, something constant, and a constant that is no tensor."""

    net: nn.Module
    by: dict[str, Tensor]
    power: int = 1

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x) * self.by["factor"] ** self.power, x


def scale(factor: float, net: nn.Module | None = None, power: int = 1) -> Scale:
    return Scale(net or NET, {"factor": torch.tensor([factor])}, power)


NET = nn.Identity()


def test_two_requests_that_take_turns_fill_the_buffers_anew() -> None:
    runner = Runner(Rerun())
    runner.bind(scale(1.0))(torch.ones(2))
    twice, thrice = runner.bind(scale(2.0)), runner.bind(scale(3.0))
    for x in (1.0, 5.0):
        assert twice(torch.full((2,), x))[0].tolist() == [2 * x] * 2
        assert thrice(torch.full((2,), x))[0].tolist() == [3 * x] * 2
    assert runner.recorded == 1


def test_outputs_belong_to_the_caller() -> None:
    runner = Runner(Rerun())
    runner.bind(scale(1.0))(torch.ones(2))
    run = runner.bind(scale(2.0))
    first = run(torch.ones(2))
    run(torch.zeros(2))
    assert first[0].tolist() == [2.0, 2.0]
    assert first[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "other",
    [
        (scale(1.0), torch.ones(3)),
        (scale(1.0), torch.ones(2, dtype=torch.float64)),
        (scale(1.0, nn.Identity()), torch.ones(2)),
        (scale(1.0, power=2), torch.ones(2)),
        (Scale(NET, {"factor": torch.ones(1), "unused": torch.ones(1)}), torch.ones(2)),
        (scale(1.0), torch.ones(4)[::2]),
    ],
    ids=["shape", "dtype", "network", "constant", "key", "stride"],
)
def test_whatever_is_no_value_makes_another_kind(other: tuple[Scale, Tensor]) -> None:
    assert kind_of((scale(1.0), torch.ones(2))) == kind_of((scale(5.0), torch.zeros(2)))
    assert kind_of((scale(1.0), torch.ones(2))) != kind_of(other)


def test_a_tree_gives_all_its_tensors_and_takes_others_in_their_place() -> None:
    tree = (scale(2.0), [torch.ones(1), None], {"a": (torch.zeros(1), "text")})
    changed = with_tensors(tree, lambda tensor: tensor + 1)
    assert [one.item() for one in tensors(tree)] == [2, 1, 0]
    assert [one.item() for one in tensors(changed)] == [3, 2, 1]
    assert changed[0].net is NET
    assert changed[1][1] is None


def test_the_least_recently_used_recording_goes() -> None:
    runner = Runner(Rerun(), most=2)
    for size in (1, 2, 3):
        for _ in range(2):
            runner.bind(scale(1.0))(torch.ones(size))
    assert runner.recorded == 2
    runner.clear()
    assert runner.recorded == 0


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        def record(self, run: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    runner = Runner(Full())
    for _ in range(3):
        assert runner.bind(scale(2.0))(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert list(runner.failures) == ["CUDA out of memory"]
    assert runner.recorded == 0
    assert "memory_profile" in caplog.text


def test_what_could_not_be_recorded_is_tried_again_later_and_not_for_ever() -> None:
    class FullAtFirst(Rerun):
        tries = 0

        def record(self, run: Any) -> Any:
            self.tries += 1
            if self.tries <= full_for:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().record(run)

    full_for, recorder = 1, FullAtFirst()
    runner = Runner(recorder)
    for number in range(2 + PAUSES[0] + 3):  # the first of its kind is not recorded, the second fails
        assert runner.bind(scale(2.0))(torch.ones(2))[0].tolist() == [2.0, 2.0]
        assert (recorder.tries, runner.recorded) == ((2, 1) if number >= 2 + PAUSES[0] else (min(number, 1), 0))
    full_for, recorder = 100, FullAtFirst()
    runner = Runner(recorder)
    for _ in range(3 * sum(PAUSES)):
        runner.bind(scale(2.0))(torch.ones(2))
    assert recorder.tries == 1 + len(PAUSES)
    runner.clear()
    for _ in range(2):
        runner.bind(scale(2.0))(torch.ones(2))
    assert recorder.tries == 2 + len(PAUSES), "what was forgotten is tried anew"


def test_of_many_failures_the_oldest_are_forgotten() -> None:
    patience = Patience(pauses=(5,), most=2)
    for key in "abc":
        patience.failed(key)
    assert [patience.rests(key) for key in "abc"] == [False, True, True]


def test_graphs_and_networks_that_come_and_go_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="switch graphs off"):
        Profile(graphs=True, memory="24gb")
    with pytest.raises(ValueError, match="switch compile off"):
        Profile(compile=True, memory="24gb")
    with pytest.raises(ValueError, match="one stream"):
        Profile(compile=True, branches=True)
