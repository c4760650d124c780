"""CATALOG: PuLID alone, so that a worker that was killed is soon back."""

from pipelines.catalog import CATALOG as REAL

CATALOG = tuple(endpoint for endpoint in REAL if endpoint.id == "fal-ai/pulid")
