// Submit with a webhook, receive it, and verify its signature as fal documents it.
import { createHash, createPublicKey, verify } from "node:crypto";
import { createServer } from "node:http";
import { answer, fal, given } from "./client.mjs";

const receive = () =>
  new Promise((resolve) => {
    const door = createServer(async (request, response) => {
      const body = Buffer.concat(await request.toArray());
      response.end(() => door.close());
      resolve({ headers: request.headers, body });
    }).listen(0, "127.0.0.1", async () => {
      const webhookUrl = `http://127.0.0.1:${door.address().port}/results?job=1`;
      await fal.queue.submit(given.endpoint, { input: given.input, webhookUrl });
    });
  });

const verifies = (headers, body, key) => {
  const hash = createHash("sha256").update(body).digest("hex");
  const parts = ["request-id", "user-id", "timestamp"].map((part) => headers[`x-fal-webhook-${part}`]);
  const signature = Buffer.from(headers["x-fal-webhook-signature"], "hex");
  return verify(null, Buffer.from([...parts, hash].join("\n")), createPublicKey({ key, format: "jwk" }), signature);
};

const { headers, body } = await receive();
const { keys } = await (await fetch("https://rest.fal.ai/.well-known/jwks.json")).json();
const forged = Buffer.concat([body, Buffer.from(" ")]);
answer({
  ...JSON.parse(body),
  genuine: keys.some((key) => verifies(headers, body, key)),
  forgedToo: keys.some((key) => verifies(headers, forged, key)),
});
