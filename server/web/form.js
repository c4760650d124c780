// A form from an OpenAPI 3.0 schema object. A control is {element, read(), focus()}; read() may be undefined: not given.

import { upload } from "./api.js";

const IMAGE_URL = /image_url$/;
const LONG_TEXT = /prompt$/;

export function resolve(schema, schemas) {
  if (schema.allOf?.length === 1) return { ...resolve(schema.allOf[0], schemas), ...schema, allOf: undefined };
  if (!schema.$ref) return schema;
  return resolve(schemas[schema.$ref.split("/").at(-1)], schemas);
}

const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

function textControl(name, schema) {
  const element = make(LONG_TEXT.test(name) ? "textarea" : "input", { value: schema.default ?? "" });
  return { element, read: () => (element.value === "" ? undefined : element.value) };
}

function numberControl(schema) {
  const element = make("input", { type: "number", step: schema.type === "integer" ? 1 : "any", value: schema.default ?? "" });
  if (schema.minimum !== undefined) element.min = schema.minimum;
  if (schema.maximum !== undefined) element.max = schema.maximum;
  return { element, read: () => (element.value === "" ? undefined : Number(element.value)) };
}

function booleanControl(schema) {
  const element = make("input", { type: "checkbox", checked: schema.default ?? false });
  return { element, read: () => element.checked };
}

function choiceControl(schema) {
  const element = make("select");
  if (schema.nullable) element.append(make("option", { value: "", textContent: "none" }));
  for (const value of schema.enum) element.append(make("option", { value, textContent: value }));
  element.value = schema.default ?? "";
  return { element, read: () => (element.value === "" ? null : element.value) };
}

// fal's image_size: a preset's name, or width and height.
function sizeControl(schema, schemas) {
  const options = schema.anyOf.map((option) => resolve(option, schemas));
  const presets = options.find((option) => option.enum).enum;
  const select = make("select");
  for (const value of [...presets, "custom"]) select.append(make("option", { value, textContent: value }));
  const custom = typeof schema.default === "object";
  select.value = custom ? "custom" : schema.default ?? presets[0];
  const side = (name) => make("input", { type: "number", step: 1, min: 1, value: schema.default?.[name] ?? 1024, ariaLabel: name });
  const width = side("width");
  const height = side("height");
  const sides = make("div", { className: "sizes", hidden: !custom });
  sides.append(width, height);
  select.addEventListener("change", () => (sides.hidden = select.value !== "custom"));
  const element = make("div");
  element.append(select, sides);
  const read = () => (select.value === "custom" ? { width: Number(width.value), height: Number(height.value) } : select.value);
  return { element, read, focus: () => select.focus() };
}

function imageControl() {
  const element = document.getElementById("image-field").content.cloneNode(true).firstElementChild;
  const [url, picker] = element.querySelectorAll("input");
  const preview = element.querySelector("img");
  let uploaded = Promise.resolve();
  const show = (source) => {
    preview.src = source;
    preview.hidden = !source;
  };
  const take = (file) => {
    if (!file) return;
    show(URL.createObjectURL(file));
    url.value = "uploading…";
    uploaded = upload(file).then((fileUrl) => { url.value = fileUrl; }, (error) => { url.value = ""; throw error; });
    uploaded.catch((error) => { url.placeholder = `Upload failed: ${error.message}`; });
  };
  picker.addEventListener("change", () => take(picker.files[0]));
  element.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  element.addEventListener("dragover", (event) => { event.preventDefault(); element.classList.add("over"); });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  const read = async () => { await uploaded; return url.value.trim() || undefined; };
  return { element, read, focus: () => url.focus(), clear: () => show("") };
}

// An array of objects that hold one image each, e.g. photos of one person.
function imageListControl(itemSchema) {
  const [inner] = Object.keys(itemSchema.properties);
  const element = make("div");
  const list = make("div");
  const controls = [];
  const add = () => { const control = imageControl(); controls.push(control); list.append(control.element); };
  const more = make("button", { type: "button", textContent: "Add a photo" });
  more.addEventListener("click", add);
  element.append(list, more);
  add();
  const read = async () => {
    const urls = (await Promise.all(controls.map((control) => control.read()))).filter(Boolean);
    return urls.length ? urls.map((url) => ({ [inner]: url })) : undefined;
  };
  return { element, read, focus: () => controls[0].focus(), clear: () => controls.forEach((control) => control.clear()) };
}

function controlFor(name, schema, schemas) {
  if (schema.enum) return choiceControl(schema);
  if (schema.anyOf) return sizeControl(schema, schemas);
  if (schema.type === "boolean") return booleanControl(schema);
  if (schema.type === "integer" || schema.type === "number") return numberControl(schema);
  if (schema.type === "array") return imageListControl(resolve(schema.items, schemas));
  return IMAGE_URL.test(name) ? imageControl() : textControl(name, schema);
}

function field(name, schema, control) {
  const id = `field-${name}`;
  const labelled = control.element.matches("input, select, textarea");
  const box = make("div", { className: "field" });
  box.append(make("label", { htmlFor: labelled ? id : "", textContent: name }));
  if (labelled) control.element.id = id;
  else Object.assign(control.element, { role: "group", ariaLabel: name });
  const wrong = make("div", { className: "wrong" });
  box.append(control.element, make("div", { className: "help", textContent: schema.description ?? "" }), wrong);
  return { name, box, wrong, ...control, focus: control.focus ?? (() => control.element.focus()) };
}

// Build the controls of `schema` into the two boxes, required ones first; returns the fields by name.
export function build(schema, schemas, required, optional) {
  required.replaceChildren();
  optional.replaceChildren();
  const fields = new Map();
  for (const name of schema["x-fal-order-properties"]) {
    const property = resolve(schema.properties[name], schemas);
    const made = field(name, property, controlFor(name, property, schemas));
    (schema.required?.includes(name) ? required : optional).append(made.box);
    fields.set(name, made);
  }
  return fields;
}

export async function read(fields) {
  const values = await Promise.all([...fields.values()].map(async ({ name, read: value }) => [name, await value()]));
  return Object.fromEntries(values.filter(([, value]) => value !== undefined));
}
