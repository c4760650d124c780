"""What the programs share: what they are given, and how they answer."""

import json
import sys

import fal_client

given = json.loads(sys.argv[1])


def answer(**value):
    print(json.dumps(value))


def answer_error(error: fal_client.client.FalClientError):
    """Old clients know neither status nor type."""
    answer(
        name=type(error).__name__,
        status=getattr(error, "status_code", None),
        detail=getattr(error, "message", None) or next(iter(error.args), str(error)),
        errorType=getattr(error, "error_type", None),
    )
