"""The real InstantID endpoint and pipeline, whose face analyser answers what upstream's found in one recorded case."""

from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from pipelines.endpoint import Endpoint
from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.instantid.pipeline import InstantIDPipeline
from pipelines.profile import Profile
from pipelines.shelf import Shelf
from scripts.replay_instantid import RecordedFaces

CASE = Path(__file__).parents[1] / "golden" / "instantid" / "cases" / "size_64x64.npz"


class RecordedInstantID(InstantIDPipeline):
    """Nothing of it is replaced but the analyser, which is a constructor argument anyway."""

    @classmethod
    def load(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, folder: Path, profile: Profile, shelf: Shelf | None = None
    ) -> Self:
        faces = RecordedFaces()
        with np.load(CASE) as golden:
            faces.case = dict(golden)
        return super().load(folder, profile, shelf, faces=faces)


CATALOG: tuple[Endpoint, ...] = (replace(INSTANTID_LCM, pipeline="tests.pipelines.recorded:RecordedInstantID"),)
