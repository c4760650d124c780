// Cancel a running request, wait for its end, and cancel once more.
import { answer, fal, given, sleep } from "./client.mjs";

const { endpoint, input } = given;
const { request_id: requestId } = await fal.queue.submit(endpoint, { input });
const reach = async (wanted) => {
  for (;;) {
    const status = await fal.queue.status(endpoint, { requestId });
    if (status.status === wanted) return status;
    await sleep(50);
  }
};
await reach("IN_PROGRESS");
await fal.queue.cancel(endpoint, { requestId });
const ended = await reach("COMPLETED");
const again = await fal.queue.cancel(endpoint, { requestId }).catch((error) => error.name);
answer({ errorType: ended.error_type, again });
