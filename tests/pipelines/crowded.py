"""CATALOG: FaultyPuLID and tiny InstantID, which share a card that is too small for both."""

from dataclasses import replace

from pipelines.endpoint import Endpoint
from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.pulid.endpoint import PULID

CATALOG: tuple[Endpoint, ...] = (
    replace(PULID, pipeline="tests.pipelines.faulty_pulid:CrowdedPuLID"),
    INSTANTID_LCM,
)
