"""Both models in one process: what is made of the same files exists once, what is not, never."""

import gc
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.errors import LoadError
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.pulid.pipeline import PuLIDPipeline
from pipelines.shelf import Shelf
from tests.pipelines.sharing import CATALOG
from tests.worker_process import Site

TINY = Path(__file__).parents[2] / "weights" / "tiny"
CPU = Profile(device="cpu", dtype="float32", detector="haar", tiny=True)
PARTS = ("text_encoder", "text_encoder_2", "vae")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A weights folder whose two models have bases with the same text encoders and VAE, as copies."""
    shutil.copytree(TINY, tmp_path / "weights")
    for part in PARTS:
        ours = tmp_path / "weights" / "pulid" / "sdxl_base" / part
        shutil.rmtree(ours)
        shutil.copytree(TINY / "instantid" / "base" / part, ours)
    return tmp_path / "weights"


def load_both(root: Path, shelf: Shelf, other: Profile = CPU) -> tuple[Any, Any]:
    return InstantIDPipeline.load(root / "instantid", CPU, shelf), PuLIDPipeline.load(root / "pulid", other, shelf)


def bytes_of(*nets: nn.Module) -> int:
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for net in nets for p in net.parameters()}
    return sum(storages.values())


def test_text_encoders_vae_and_face_models_of_the_same_files_exist_once(root: Path) -> None:
    one, other = load_both(root, Shelf())
    for part in PARTS:
        assert getattr(one, part) is getattr(other, part), part
    assert one.faces is other.faces
    assert one.unet is not other.unet
    shared = [getattr(one, part) for part in PARTS]
    nets = [net for pipeline in (one, other) for net in pipeline.components.values() if isinstance(net, nn.Module)]
    assert bytes_of(*nets) == sum(bytes_of(net) for net in nets) - bytes_of(*shared)


def test_without_a_common_shelf_nothing_is_shared(root: Path) -> None:
    one, other = InstantIDPipeline.load(root / "instantid", CPU), PuLIDPipeline.load(root / "pulid", CPU)
    assert not any(getattr(one, part) is getattr(other, part) for part in PARTS)
    assert one.faces is not other.faces


def test_links_to_one_file_are_the_same_file(root: Path) -> None:
    for part in PARTS:
        shutil.rmtree(root / "pulid" / "sdxl_base" / part)
        (root / "pulid" / "sdxl_base" / part).symlink_to(root / "instantid" / "base" / part)
    one, other = load_both(root, Shelf())
    assert all(getattr(one, part) is getattr(other, part) for part in PARTS)


def test_one_number_or_one_setting_that_differs_is_another_network(root: Path) -> None:
    base = root / "pulid" / "sdxl_base"
    with (base / "vae" / "diffusion_pytorch_model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        last = weights.read()
        weights.seek(-1, os.SEEK_END)
        weights.write(bytes([last[0] ^ 1]))
    config = base / "text_encoder" / "config.json"
    config.write_text(config.read_text() + "\n")

    one, other = load_both(root, Shelf())
    assert other.vae is not one.vae
    pairs = zip(one.vae.state_dict().values(), other.vae.state_dict().values(), strict=True)
    assert sum(not torch.equal(a, b) for a, b in pairs) == 1
    assert other.text_encoder is not one.text_encoder
    assert other.text_encoder_2 is one.text_encoder_2


def test_another_precision_is_another_network(root: Path) -> None:
    one, other = load_both(root, Shelf(), Profile(device="cpu", dtype="bfloat16", detector="haar", tiny=True))
    assert not any(getattr(one, part) is getattr(other, part) for part in PARTS)


def test_both_models_still_draw_what_they_draw_alone(root: Path) -> None:
    both = load_both(root, Shelf())
    alone: tuple[Any, Any] = InstantIDPipeline.load(root / "instantid", CPU), PuLIDPipeline.load(root / "pulid", CPU)
    options: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 1, "seed": 7, "output_type": "latent"}
    for shared, single, more in zip(both, alone, ({"controls": ()}, {}), strict=True):
        found, right = (pipeline("a man", **options, **more)[0] for pipeline in (shared, single))
        assert torch.equal(found, right)


class Thing:
    """Something that a shelf can hold."""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        (tmp_path / name).write_bytes(b"weights")
    return tmp_path / "one", tmp_path / "other"


def test_a_thing_is_kept_for_as_long_as_it_is_used(files: tuple[Path, Path]) -> None:
    shelf, made = Shelf(), []

    def make() -> Thing:
        made.append(1)
        return Thing()

    thing = shelf.get("net", [files[0]], make)
    assert shelf.get("net", [files[1]], make) is thing
    assert shelf.get("other net", [files[0]], make) is not thing
    del thing
    gc.collect()
    before = len(made)
    assert shelf.get("net", [files[0]], make)
    assert len(made) == before + 1


def test_a_file_that_was_replaced_since_it_was_read_is_never_taken_for_it(files: tuple[Path, Path]) -> None:
    """Of equal size and with the old times: what is in memory is what the file was, not what it is."""
    shelf, (one, other) = Shelf(), files
    thing = shelf.get("net", [one], Thing)
    one.write_bytes(b"changed")
    other.write_bytes(b"changed")
    for file in (one, other):
        assert shelf.get("net", [file], Thing) is not thing


def test_files_of_another_size_are_not_even_read(files: tuple[Path, Path]) -> None:
    shelf, (one, other) = Shelf(), files
    thing = shelf.get("net", [one], Thing)
    other.write_bytes(b"longer weights")
    one.unlink()
    assert shelf.get("net", [other], Thing) is not thing


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"absent is missing"):
        Shelf().get("net", [tmp_path / "absent"], Thing)


def test_a_worker_hands_one_shelf_to_all_its_pipelines(tmp_path: Path) -> None:
    site = Site(tmp_path, catalog="tests.pipelines.sharing:CATALOG")
    with site.worker():
        seeds = {site.done(site.put(endpoint)).result["seed"] for endpoint in CATALOG}  # pyright: ignore[reportOptionalSubscript]
    site.queue.close()
    assert len(seeds) == 1
