"""CATALOG of characters, one per way in which a job can go: VERAICON_CATALOG=tests.pipelines.catalog:CATALOG."""

from pipelines.endpoint import Endpoint
from tests.pipelines.black_out import BLACK_OUT
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.broken import BROKEN
from tests.pipelines.deadly import DEADLY
from tests.pipelines.exits import EXITS
from tests.pipelines.gives_less import GIVES_LESS
from tests.pipelines.hangs import HANGS
from tests.pipelines.hoards import HOARDS
from tests.pipelines.loses_device import LOSES_DEVICE
from tests.pipelines.measured import MEASURED
from tests.pipelines.narrow import NARROW
from tests.pipelines.nobody_there import NOBODY_THERE
from tests.pipelines.out_of_memory import OUT_OF_MEMORY
from tests.pipelines.poisonous import POISONOUS
from tests.pipelines.tight import TIGHT

CATALOG: tuple[Endpoint, ...] = (
    BLACK_OUT,
    BLUE_SQUARE,
    BROKEN,
    DEADLY,
    EXITS,
    GIVES_LESS,
    HANGS,
    HOARDS,
    LOSES_DEVICE,
    MEASURED,
    NARROW,
    NOBODY_THERE,
    OUT_OF_MEMORY,
    POISONOUS,
    TIGHT,
)
