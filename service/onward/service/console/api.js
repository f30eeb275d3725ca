// The API's client: the key, requests, and errors as problems (RFC 9457).

const KEY = "onward.key";
export const ROOT = new URL("..", document.baseURI);

export const key = () => sessionStorage.getItem(KEY) ?? "";

/** Keep a key until the tab is closed; an empty one is forgotten. */
export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.status = status;
    this.code = body.code ?? "";
    this.errors = body.errors ?? [];
  }

  get needsKey() {
    return this.status === 401 || this.status === 403;
  }

  /** The scope that the key lacks, where the service names it. */
  get scope() {
    return /scope (\w+)/.exec(this.message)?.[1] ?? null;
  }
}

/** Call the API and return {body, headers, ms}, where ms is the round trip as the browser sees it. Throws Problem. */
export async function call(method, path, body, { headers = {}, signal } = {}) {
  const started = performance.now();
  const response = await fetch(new URL(path, ROOT), {
    method,
    signal,
    cache: "no-store",
    headers: {
      ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      ...(key() ? { "X-API-Key": key() } : {}),
      ...headers,
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The service does not answer. Is it running?" });
  });
  const isJSON = /\bjson\b/.test(response.headers.get("content-type") ?? "");
  const content = isJSON ? await response.json() : await response.text();
  if (!response.ok) throw new Problem(response.status, isJSON ? content : {});
  return { body: content, headers: response.headers, ms: performance.now() - started };
}

/** Call with GET and parameters, of which undefined, null and empty ones are left out; return the body. */
export async function get(path, parameters = {}, options = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.append(name, value);
  }
  return (await call("GET", query.size ? `${path}?${query}` : path, undefined, options)).body;
}

/** A path segment that holds an id. */
export const segment = (id) => encodeURIComponent(id);
