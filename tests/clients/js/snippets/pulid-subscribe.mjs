import { fal } from "@fal-ai/client";

const result = await fal.subscribe("fal-ai/pulid", {
  input: {
    reference_images: [{
      image_url: "https://storage.googleapis.com/falserverless/pulid/img2.png"
    }, {
      image_url: "https://storage.googleapis.com/falserverless/pulid/img1.png"
    }],
    prompt: "portrait, impressionist painting, loose brushwork, vibrant color, light and shadow play"
  },
  logs: true,
  onQueueUpdate: (update) => {
    if (update.status === "IN_PROGRESS") {
      update.logs.map((log) => log.message).forEach(console.log);
    }
  },
});
console.log(result.data);
console.log(result.requestId);
