// The page: choose an endpoint, fill in its form, run it, see the pictures.

import { ApiError, call, cancel, follow, keepKey, readKey } from "./api.js";
import { build, read } from "./form.js";

const find = (id) => document.getElementById(id);
const page = Object.fromEntries(
  ["endpoint", "key", "key-field", "tiny", "form", "about", "required", "optional", "run", "cancel", "state", "progress",
    "errors", "pictures", "log", "log-box", "json", "json-box"].map((id) => [id, find(id)]),
);
const STEP = /(\d+)\s*\/\s*(\d+)/;

let offered = [];
let fields = new Map();
let running = null;

async function choose(id) {
  const endpoint = offered.find((one) => one.id === id) ?? offered[0];
  page.endpoint.value = endpoint.id;
  page.about.textContent = `${endpoint.title}: ${endpoint.description} Commercial use: ${endpoint.commercial_use}.`;
  const api = await call("GET", `/api/openapi/queue/openapi.json?endpoint_id=${encodeURIComponent(endpoint.id)}`);
  const { schemas } = api.components;
  const given = api.paths[`/${endpoint.id}`].post.requestBody.content["application/json"].schema.$ref;
  fields = build(schemas[given.split("/").at(-1)], schemas, page.required, page.optional);
}

function showStatus(status) {
  const { status: state, queue_position: position, logs } = status;
  page.state.textContent = state === "IN_QUEUE" ? `In queue, ${position} ahead` : state === "IN_PROGRESS" ? "In progress" : "Completed";
  const lines = logs ?? [];
  page.log.textContent = lines.map((line) => line.message).join("\n");
  page["log-box"].hidden = lines.length === 0;
  const step = lines.map((line) => STEP.exec(line.message)).filter(Boolean).at(-1);
  page.progress.hidden = state === "COMPLETED";
  if (step) page.progress.value = Number(step[1]) / Number(step[2]);
  else page.progress.removeAttribute("value");
  if (status.metrics?.inference_time) page.state.textContent += ` in ${status.metrics.inference_time.toFixed(2)} s`;
}

function showResult(body) {
  const images = body.images ?? (body.image ? [body.image] : []);
  page.pictures.replaceChildren(...images.map((image) => {
    const link = Object.assign(document.createElement("a"), { href: image.url, download: image.file_name ?? "" });
    link.append(Object.assign(document.createElement("img"), { src: image.url, width: image.width, height: image.height, alt: "Generated picture; a click saves it" }));
    return link;
  }));
  showJson(body);
}

function showJson(body) {
  page.json.textContent = JSON.stringify(body, null, 2);
  page["json-box"].hidden = false;
}

function showError(error) {
  page.state.textContent = "Failed";
  page.progress.hidden = true;
  const details = error.details?.length ? error.details : [{ msg: error.message }];
  for (const { loc, msg } of details) {
    const at = fields.get(String(loc?.[1]));
    if (at) {
      at.wrong.textContent = msg;
      at.box.closest("details")?.setAttribute("open", "");
      at.focus();
    }
    page.errors.append(Object.assign(document.createElement("li"), { textContent: at ? `${loc.slice(1).join(".")}: ${msg}` : msg }));
  }
  if (error instanceof ApiError) {
    showJson(error.body);
    if (error.status === 401 || error.status === 403) page["key-field"].hidden = false;
  }
}

function clear() {
  for (const { wrong } of fields.values()) wrong.textContent = "";
  page.errors.replaceChildren();
  page.pictures.replaceChildren();
  page["json-box"].hidden = page["log-box"].hidden = true;
}

async function run() {
  clear();
  page.run.disabled = true;
  page.state.textContent = "Sending";
  try {
    running = await call("POST", `/queue/${page.endpoint.value}`, await read(fields));
    page.cancel.disabled = false;
    showResult(await follow(running, showStatus));
  } catch (error) {
    showError(error);
  } finally {
    running = null;
    page.run.disabled = false;
    page.cancel.disabled = true;
  }
}

async function stop() {
  if (running) await cancel(running).catch(showError);
}

page.form.addEventListener("submit", (event) => { event.preventDefault(); run(); });
page.form.addEventListener("reset", (event) => { event.preventDefault(); clear(); page.state.textContent = "Idle"; choose(page.endpoint.value); });
page.cancel.addEventListener("click", stop);
page.endpoint.addEventListener("change", () => choose(page.endpoint.value));
page.key.value = readKey();
page.key.addEventListener("input", () => keepKey(page.key.value.trim()));
page["key-field"].hidden = !readKey();
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) page.form.requestSubmit();
  if (event.key === "Escape") stop();
});

try {
  const server = await call("GET", "/api/endpoints");
  offered = server.endpoints;
  page.tiny.hidden = server.weights !== "tiny";
  for (const { id } of offered) page.endpoint.append(new Option(id, id));
  await choose(new URLSearchParams(location.search).get("endpoint"));
} catch (error) {
  showError(error);
}
