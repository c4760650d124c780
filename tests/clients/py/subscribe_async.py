"""The same by the asynchronous client."""

import asyncio

import fal_client
from client import answer, given

answer(data=asyncio.run(fal_client.subscribe_async(given["endpoint"], given["input"])))
