// Requests over HTTP, and the one class of errors that calls of the SDK fail with.
//
// Owns what a failure is called. A browser tells a page nothing but "TypeError" where a service cannot be reached, or answers
// another origin only: neither is a refusal, and `unanswered` finds out as much as a page may know.

const ENTRY_S = 5;
const TOKEN_S = 5;
const LOOK_S = 1;
const LOOKED_MS = 60_000; // how long to believe what a look found
const CODE = /^[a-z][a-z0-9_]*$/;
const TITLES = {
  network: "There is no answer",
  timeout: "There was no answer in time",
  aborted: "The call was aborted",
  bad_answer: "The answer is not the service's",
  bad_json: "The body cannot be written as JSON",
  room_invalid: "A room id has 1 to 64 characters of A-Z a-z 0-9 _ -",
  token_missing: "A token is needed, and there is none",
  token_invalid: "The token is not valid",
  token_failed: "The token function failed",
};

/**
 * Why a call failed. `code` is stable: one of docs/errors.md where a service refused (then the error is a `Refused`), or one of the
 * SDK's own. `status` is 0 where no answer came.
 */
export class LiveRoomError extends Error {
  constructor(code, detail = "", { status = 0, title = TITLES[code], room = "", retryAfterS = 0, untilMs = 0, requestId = "", cause } = {}) {
    super(detail && detail !== title ? `${title ?? code}: ${detail}` : title ?? code);
    this.name = "LiveRoomError";
    this.code = code;
    this.status = status;
    this.detail = detail;
    this.room = room;
    this.retryAfterS = retryAfterS;
    this.untilMs = untilMs;
    this.requestId = requestId;
    if (cause !== undefined) this.cause = cause;
  }
}

const textOf = (value) => (typeof value === "string" ? value : "");

/** A refusal over HTTP: the problem's `code` (RFC 9457), or `http_error` where what answered is no service of ours. */
export class Refused extends LiveRoomError {
  constructor(status, problem, retryAfterS) {
    const isOurs = CODE.test(textOf(problem.code)); // the page or the JSON of a proxy has no such code
    super(isOurs ? problem.code : "http_error", textOf(problem.detail), {
      status,
      title: textOf(problem.title) || `HTTP ${status}`,
      room: textOf(problem.room),
      retryAfterS: retryAfterS ?? 0,
      untilMs: Number.isSafeInteger(problem.until_ms) ? problem.until_ms : 0,
      requestId: textOf(problem.request_id),
    });
    this.name = "Refused";
    this.isOurs = isOurs;
    this.isFinal = isOurs && status >= 400 && !isPassing(status) && retryAfterS === null; // it cannot succeed later
  }
}

/** Returns a signal that aborts after `seconds`, or with another one. Browsers of 2021 have neither `timeout` nor `any`. */
export function limit(seconds, other = null) {
  if (!other && AbortSignal.timeout) return AbortSignal.timeout(seconds * 1000);
  const limited = new AbortController();
  const abort = () => limited.abort();
  if (other?.aborted) abort();
  other?.addEventListener("abort", abort);
  if (AbortSignal.timeout) AbortSignal.timeout(seconds * 1000).addEventListener("abort", abort);
  else setTimeout(abort, seconds * 1000);
  return limited.signal;
}

/** Requests a URL and returns the answer's JSON, `{}` where its body is empty; throws `LiveRoomError`. */
export async function ask(url, { timeoutS = ENTRY_S, signal, ...options } = {}) {
  const limited = limit(timeoutS, signal);
  let response;
  let text;
  try {
    response = await fetch(url, { ...options, signal: limited });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw new LiveRoomError("aborted", "", { cause: error });
    if (limited.aborted) throw new LiveRoomError("timeout", `${originOf(url)} took more than ${timeoutS} s`, { cause: error });
    throw await unanswered(url, error);
  }
  const body = parsed(text);
  if (!response.ok) throw new Refused(response.status, body ?? {}, retryAfter(response, body ?? {}));
  if (body === undefined && text.trim()) throw new LiveRoomError("bad_answer", `${originOf(url)} sent no JSON`, { status: response.status });
  return body ?? {};
}

/** Returns the members of a refusal's body, none where it is not a problem. */
export const problemOf = (text) => parsed(text) ?? {};

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Returns the delay in seconds that a refusal asks for: its body, or else its header; null where neither does. */
export function retryAfter(response, { retry_after_s: said } = {}) {
  const { headers } = response;
  const text = headers.get("Retry-After") ?? "";
  const until = /^\s*\d+\s*$/.test(text) ? Number(text) : (Date.parse(text) - Date.parse(headers.get("Date") ?? "")) / 1000;
  const [bodyS, headerS] = [said, until].map((delay) => (Number.isFinite(delay) ? Math.max(delay, 0) : null)); // a date may be NaN
  return bodyS || (headerS ?? bodyS); // a body may ask for none
}

/** Returns whether a request that failed with this status may succeed later. */
export const isPassing = (status) => status === 408 || status === 425 || status === 429 || status >= 500;

// ---- tokens
/** Awaits an application's promise, with a time-out. */
function within(seconds, promise) {
  let timer = 0;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new LiveRoomError("timeout", `no token within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * Returns the token to send. `token` is a text, or a function that gives one in time. Throws `LiveRoomError`: where there is none,
 * no request is made that could only be refused.
 */
export async function currentToken(token) {
  let given = token;
  if (typeof token === "function") {
    try {
      given = await within(TOKEN_S, token());
    } catch (error) {
      const { message, retryAfterS } = error instanceof Error ? error : { message: String(error) };
      throw new LiveRoomError("token_failed", message, { retryAfterS, cause: error });
    }
  }
  const from = typeof token === "function" ? "the token function gave" : "the token is";
  if (given === undefined || given === null || given === "") {
    throw new LiveRoomError("token_missing", `${from} ${given === "" ? "an empty text" : given}`);
  }
  if (typeof given !== "string") throw new LiveRoomError("token_invalid", `${from} no text: ${typeof given}`);
  if (!/^[\x21-\x7e]+$/.test(given.trim())) throw new LiveRoomError("token_invalid", `${from} a text with spaces or other characters`);
  return given.trim();
}

// ---- no answer
/** Returns the origin of an address, as the page resolves it; "" where it is none. */
function originOf(url) {
  try {
    return new URL(url, location.href).origin;
  } catch {
    return "";
  }
}

const MIXED = "a browser lets a page that came over https connect to https and wss only";

/** Returns whether the page came over https and the address is without TLS, on another machine. */
const isMixed = (url) => location.protocol === "https:" && /^(http|ws):\/\/(?!localhost\b|127\.|\[::1\])/i.test(url);

const looked = new Map();

/** Returns whether a service answers anybody: an answer that the page may not read tells that much. */
function isThere(origin) {
  const before = looked.get(origin);
  if (before && performance.now() - before.atMs < LOOKED_MS) return before.found;
  const options = { method: "HEAD", mode: "no-cors", credentials: "omit", cache: "no-store", signal: limit(LOOK_S) };
  const found = fetch(`${origin}/`, options).then(
    () => true,
    () => false,
  );
  looked.set(origin, { atMs: performance.now(), found });
  return found;
}

/** Returns the error of a request that got no answer, with its likely cause in words. */
export async function unanswered(url, cause) {
  const detail = await silence(originOf(url), String(url));
  return new LiveRoomError("network", detail, { cause });
}

async function silence(service, url) {
  const own = location.origin;
  if (!service) return `${url} is no address`;
  if (navigator.onLine === false) return "this device is offline";
  if (isMixed(service)) return `${service}: ${MIXED}`;
  if (service === own) return `${service} cannot be reached`;
  const missing = `this page's origin, ${own}, may be missing in its LIVEROOM_ORIGINS`;
  if (await isThere(service)) return `${service} answers, but not to this page: ${missing}`;
  return `${service} cannot be reached, or the page's Content-Security-Policy (connect-src) does not name it; or ${missing}`;
}

/** Returns the error of gateways none of which could be connected to: a browser does not say why. */
export function unconnected(urls) {
  const mixed = urls.some(isMixed) ? `; ${MIXED}` : "";
  const foreign = urls.filter((url) => originOf(url).replace(/^ws/, "http") !== location.origin);
  const origins = foreign.length ? `; this page's origin, ${location.origin}, may be missing in their LIVEROOM_ORIGINS` : "";
  return new LiveRoomError("network", `none of these gateways could be connected to: ${urls.join(", ")}${mixed || origins}`);
}
