"""given: endpoint, input, and further arguments of subscribe."""

import fal_client
from client import answer, answer_error, given

states, messages, enqueued = [], [], []


def on_update(update):
    states.append(type(update).__name__)
    if isinstance(update, fal_client.Completed):
        messages.extend(log["message"] for log in update.logs)


endpoint, body = given.pop("endpoint"), given.pop("input")
try:
    data = fal_client.subscribe(
        endpoint, body, with_logs=True, on_queue_update=on_update, on_enqueue=enqueued.append, **given
    )
except fal_client.client.FalClientError as error:
    answer_error(error)
else:
    answer(data=data, states=states, messages=messages, enqueued=enqueued[0])
