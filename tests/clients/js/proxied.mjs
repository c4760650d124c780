// A page in a browser, which knows no key: every call goes to the proxy. Only there do clients heed a plain proxyUrl.
import { answer, answerError, fal, given, unpack } from "./client.mjs";

const { proxyUrl, endpoint, ...options } = given;
globalThis.window = { document: {}, location: new URL(proxyUrl) };
fal.config({ proxyUrl });
const states = [];
try {
  const onQueueUpdate = (update) => states.push(update.status);
  answer({ ...unpack(await fal.subscribe(endpoint, { ...options, onQueueUpdate })), states });
} catch (error) {
  answerError(error);
}
