"""CATALOG: fal-ai/pulid alone, its schema untouched, computed by FaultyPuLID."""

from dataclasses import replace

from pipelines.endpoint import Endpoint
from pipelines.pulid.endpoint import PULID

CATALOG: tuple[Endpoint, ...] = (replace(PULID, pipeline="tests.pipelines.faulty_pulid:FaultyPuLID"),)
