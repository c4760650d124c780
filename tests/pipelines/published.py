"""CATALOG: the two published endpoints, their schemas untouched, painted in no time; the gate; the characters."""

from dataclasses import replace

from pipelines.catalog import CATALOG as REAL
from tests.pipelines.catalog import CATALOG as CHARACTERS
from tests.pipelines.gate import GATE

PAINTER = "tests.pipelines.painter:Painter"

CATALOG = (*(replace(endpoint, pipeline=PAINTER, checkpoints=()) for endpoint in REAL), GATE, *CHARACTERS)
