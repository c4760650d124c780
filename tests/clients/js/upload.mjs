// Upload a file of the given size in MiB, all of its bytes 7.
import { answer, fal, given } from "./client.mjs";

const file = new File([new Uint8Array(given.mib * 2 ** 20).fill(7)], "seven.txt", { type: "text/plain" });
answer({ url: await fal.storage.upload(file) });
