import * as fal from "@fal-ai/serverless-client";

const result = await fal.subscribe("fal-ai/instantid/lcm", {
  input: {
    face_image_url: "https://storage.googleapis.com/falserverless/model_tests/instantid/post_malone.jpg",
    prompt: "man"
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach(console.log);
    }
  },
});
