import * as fal from "@fal-ai/serverless-client";

const file = new File(["Hello, World!"], "hello.txt", { type: "text/plain" });
const url = await fal.storage.upload(file);

const result = await fal.subscribe("fal-ai/instantid/lcm", { image_url: url });
