"""CATALOG: the endpoints offered. A third model adds one name here. Torch-free."""

from pipelines.endpoint import Endpoint
from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.pulid.endpoint import PULID

CATALOG: tuple[Endpoint, ...] = (INSTANTID_LCM, PULID)
