"""One synchronous call."""

import fal_client
from client import answer, answer_error, given

try:
    data = fal_client.run(given["endpoint"], given["input"])
except fal_client.client.FalClientError as error:
    answer_error(error)
else:
    answer(data=data)
