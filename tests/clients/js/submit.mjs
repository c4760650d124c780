// Submit, ask for the status until it is done, get the result: three calls that know the id only.
import { answer, fal, given, sleep, unpack } from "./client.mjs";

const { endpoint, ...options } = given;
const { request_id: requestId } = await fal.queue.submit(endpoint, options);
let status;
do {
  await sleep(50);
  status = await fal.queue.status(endpoint, { requestId, logs: true });
} while (status.status !== "COMPLETED");
const result = await fal.queue.result(endpoint, { requestId });
answer({ id: requestId, logs: status.logs, inferenceTime: status.metrics?.inference_time, ...unpack(result) });
