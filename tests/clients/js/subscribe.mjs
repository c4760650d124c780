// given: endpoint, input, and further options of subscribe.
import { answer, answerError, fal, given, unpack } from "./client.mjs";

const { endpoint, ...options } = given;
const states = [];
const messages = [];
let enqueued;
try {
  const result = await fal.subscribe(endpoint, {
    ...options,
    logs: true,
    onEnqueue: (requestId) => (enqueued = requestId),
    onQueueUpdate: (update) => {
      states.push(update.status);
      if (update.status === "COMPLETED") messages.push(...update.logs.map((log) => log.message));
    },
  });
  answer({ ...unpack(result), states, messages, enqueued });
} catch (error) {
  answerError(error);
}
