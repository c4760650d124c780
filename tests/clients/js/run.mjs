import { answer, answerError, fal, given, unpack } from "./client.mjs";

try {
  answer(unpack(await fal.run(given.endpoint, { input: given.input })));
} catch (error) {
  answerError(error);
}
