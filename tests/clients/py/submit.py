"""Submit, ask for the status until it is done, get the result: three calls that know the id only."""

import time

import fal_client
from client import answer, given

endpoint, body = given.pop("endpoint"), given.pop("input")
request_id = fal_client.submit(endpoint, body, **given).request_id
while not isinstance(status := fal_client.status(endpoint, request_id, with_logs=True), fal_client.Completed):
    time.sleep(0.05)
data = fal_client.result(endpoint, request_id)
answer(id=request_id, logs=status.logs, inferenceTime=status.metrics["inference_time"], data=data)
