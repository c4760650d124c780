// fal's queue API on this server: the same calls that @fal-ai/client makes.

const KEY = "veraicon-key";

export class ApiError extends Error {
  constructor(status, body) {
    super(typeof body?.detail === "string" ? body.detail : `The server answered ${status}.`);
    this.status = status;
    this.details = Array.isArray(body?.detail) ? body.detail : [];
    this.body = body;
  }
}

// The key lives as long as this tab and never appears in a URL.
export const readKey = () => sessionStorage.getItem(KEY) ?? "";
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

export async function call(method, url, body) {
  const headers = { Accept: "application/json" };
  if (readKey()) headers.Authorization = `Key ${readKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, content);
  return content;
}

export async function upload(file) {
  const { upload_url, file_url } = await call("POST", "/storage/upload/initiate", {
    content_type: file.type || "application/octet-stream",
    file_name: file.name || "pasted",
  });
  const answer = await fetch(upload_url, { method: "PUT", body: file, headers: { "Content-Type": file.type } });
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => null));
  return file_url;
}

// Where this page reaches a queue URL: the server may know itself by another name.
const here = (url) => new URL(url).pathname;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Follow a submitted request until it is completed; `show` gets each status.
export async function follow(queued, show) {
  for (;;) {
    const status = await call("GET", `${here(queued.status_url)}?logs=1`);
    show(status);
    if (status.status === "COMPLETED") return call("GET", here(queued.response_url));
    await pause(300);
  }
}

export const cancel = (queued) => call("PUT", here(queued.cancel_url));
