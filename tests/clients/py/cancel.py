"""Cancel a running request, wait for its end, and cancel once more."""

import time

import fal_client
from client import answer, given

endpoint = given["endpoint"]
request_id = fal_client.submit(endpoint, given["input"]).request_id


def reach(state):
    while not isinstance(status := fal_client.status(endpoint, request_id), state):
        time.sleep(0.05)
    return status


reach(fal_client.InProgress)
fal_client.cancel(endpoint, request_id)
ended = reach(fal_client.Completed)
try:
    fal_client.cancel(endpoint, request_id)
    again = ""
except Exception as error:
    again = type(error).__name__
answer(errorType=getattr(ended, "error_type", None), again=again)
