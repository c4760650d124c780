"""Submit with a webhook."""

import fal_client
from client import answer, given

answer(id=fal_client.submit(given["endpoint"], given["input"], webhook_url=given["webhook"]).request_id)
