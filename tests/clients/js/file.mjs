// A File among the input is uploaded by the client itself.
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { answer, fal, given, unpack } from "./client.mjs";

const face = new File([await readFile(given.file)], basename(given.file), { type: "image/png" });
answer(unpack(await fal.subscribe(given.endpoint, { input: { ...given.input, face_image_url: face } })));
