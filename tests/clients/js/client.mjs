// The client under test: new packages export `fal`, old ones its functions, whose results are the bare output.
const name = process.env.CLIENT;
const module = await import(name);

export const fal = module.fal ?? module;
export const { ApiError, ValidationError } = module;
export const given = JSON.parse(process.argv[2]);

export const unpack = (result) =>
  name.includes("serverless-client") ? { data: result } : { data: result.data, requestId: result.requestId };

export const answer = (value) => console.log(JSON.stringify(value));

export const answerError = (error) =>
  answer({
    name: error.name,
    message: error.message,
    status: error.status,
    detail: error.body?.detail,
    errorType: error.body?.error_type,
    requestId: error.requestId,
    prompt: error.getFieldErrors?.("prompt"),
  });

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
