import { fal } from "@fal-ai/client";

const { request_id } = await fal.queue.submit("fal-ai/pulid", {
  input: {
    reference_images: [{
      image_url: "https://storage.googleapis.com/falserverless/pulid/img2.png"
    }, {
      image_url: "https://storage.googleapis.com/falserverless/pulid/img1.png"
    }],
    prompt: "portrait, impressionist painting, loose brushwork, vibrant color, light and shadow play"
  },
  webhookUrl: "https://optional.webhook.url/for/results",
});
