// Calls of the API, from its own pages: the browser sends the cookie, and says that they come from here.

/** An answer that is no success. `problem` is its body (RFC 9457), where it has one. */
export class ProblemError extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `the service answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

/** The service did not answer at all. */
export class Unreachable extends Error {}

async function call(method, path, { body, headers = {}, signal, raw = false } = {}) {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers, signal, credentials: "same-origin", cache: "no-cache" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The service does not answer.");
  }
  if (answer.status === 401 && !location.pathname.startsWith("/web/sign-in")) {
    const here = location.pathname + location.search;
    location.assign(`/web/sign-in?next=${encodeURIComponent(here)}`);
    return new Promise(() => {});  // the page goes away
  }
  if (!answer.ok) {
    let problem = null;
    try {
      problem = await answer.json();
    } catch {
      // a proxy's page, perhaps
    }
    throw new ProblemError(answer.status, problem);
  }
  if (raw) return answer;
  return answer.status === 204 ? null : answer.json();
}

/** The JSON that `path` answers with. Throws `ProblemError` or `Unreachable`. */
export const get = (path, options) => call("GET", path, options);

/** Send `value` as JSON; the JSON of the answer. */
export function send(method, path, value, options = {}) {
  const headers = { accept: "application/json", ...options.headers };
  if (value === undefined) return call(method, path, { ...options, headers });
  headers["content-type"] = "application/json";
  return call(method, path, { ...options, headers, body: JSON.stringify(value) });
}

/** Send a body as it is (a picture); the answer itself. */
export const sendRaw = (path, body, headers, options) =>
  call("POST", path, { ...options, body, headers, raw: true });

/** A query's text, of names and values; arrays repeat the name, what is empty is left out. */
export function query(values) {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") made.append(name, one);
  }
  const text = made.toString();
  return text && `?${text}`;
}
