"""The result of a request that was submitted elsewhere."""

import fal_client
from client import answer, answer_error, given

try:
    answer(data=fal_client.result(given["endpoint"], given["id"]))
except fal_client.client.FalClientError as error:
    answer_error(error)
