// The result of a request that was submitted elsewhere.
import { answer, answerError, fal, given, unpack } from "./client.mjs";

try {
  answer(unpack(await fal.queue.result(given.endpoint, { requestId: given.id })));
} catch (error) {
  answerError(error);
}
