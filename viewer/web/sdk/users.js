// User ids: the reversible rule from an identity service's text (`sub` of the token) to the id of its user. Pure.
// docs/ingress.md states the rule; liveroom/users.py follows it too.

const MOST_BYTES = 128;
const PLAIN = /^(?!\.{1,2}$)[A-Za-z0-9_.:@-]{1,128}$/; // `.` and `..` vanish from the paths of URLs
const ESCAPED = /^~[A-Za-z0-9_-]+$/;
const LONE_SURROGATE = /[\ud800-\udfff]/u;

/**
 * Returns the user id of a text. Throws RangeError where it has none (it is empty, longer than 128 bytes, or no UTF-8), and
 * TypeError for what is not a text.
 */
export function userId(text) {
  checkText(text);
  if (PLAIN.test(text)) return text;
  if (LONE_SURROGATE.test(text)) throw new RangeError("the text of a user contains a lone surrogate");
  const bytes = new TextEncoder().encode(text);
  if (bytes.length === 0 || bytes.length > MOST_BYTES) {
    throw new RangeError(`the text of a user has ${bytes.length} bytes of UTF-8, 1 to ${MOST_BYTES} are allowed`);
  }
  const encoded = btoa(String.fromCharCode(...bytes));
  return `~${encoded.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/** Returns the text of a user id. Throws RangeError where `userId` returns it for no text, and TypeError where it is no text. */
export function userText(id) {
  checkText(id);
  if (PLAIN.test(id)) return id;
  const text = ESCAPED.test(id) ? unescaped(id) : null;
  if (!text || userId(text) !== id) throw new RangeError(`${id} is not a user id`);
  return text;
}

function checkText(given) {
  if (typeof given !== "string") throw new TypeError(`${given === null ? "null" : typeof given} is not a text`);
}

function unescaped(id) {
  try {
    const bytes = Uint8Array.from(atob(id.slice(1).replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}
