// Frames from a gateway, parsed strictly: anything outside the protocol is null. Pure. The fields are those of
// docs/viewer-protocol.md. Fields, kinds and types of a later version are no errors: they are passed through.

const text = (value) => typeof value === "string";
const whole = (value) => Number.isSafeInteger(value);
const number = (value) => typeof value === "number";
const truth = (value) => typeof value === "boolean";
const pair = (value) => Array.isArray(value) && value.length === 2 && value.every(whole);
const object = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const list = (value) => Array.isArray(value);
const anything = () => true;
const kind = text; // including kinds of later versions: they are numbered too, and an older client skips them
const orNull = (check) => (value) => value === null || check(value);

const CARD = {
  needed: {},
  more: {
    epoch: orNull(whole), seq: orNull(whole), rseq: orNull(whole), likes: orNull(whole), users: orNull(whole),
    connections: orNull(whole), settings: anything, announcement: anything, messages: list, reliable: list, tombstones: list,
  },
};
const card = (value) => object(value) && fits(value, CARD);
const FRAMES = {
  hello: {
    needed: { gateway: text, generation: whole, heartbeat_s: number, silence_s: number, user: text },
    more: { pull: text },
  },
  joined: {
    needed: { room: text },
    more: {
      epoch: orNull(whole), seq: orNull(whole), rseq: orNull(whole), pos: text, resumed: truth, card: orNull(card),
    },
  },
  card: { needed: { room: text, card }, more: {} },
  batch: {
    needed: { room: text, epoch: whole, seq: pair, rseq: whole, at: whole },
    more: { pos: text, skipped: whole, likes: orNull(whole), viewers: orNull(pair) },
  },
  notice: { needed: { room: text, kind, id: text, at: whole }, more: { until_ms: whole, why: text, by_role: text } },
  move: { needed: { reason: text }, more: { delay_s: number } },
  left: { needed: { room: text }, more: {} },
  hb: { needed: { at: whole }, more: {} },
  error: { needed: { code: text }, more: { detail: text, room: text, retry_after_s: orNull(number), until_ms: whole } },
};
const MESSAGE = {
  needed: { seq: whole, kind, id: text, user: text, at: whole },
  more: { rseq: whole, name: text, role: text, level: whole, n: whole, package: text, data: anything },
};
const PULLED = {
  needed: { room: text },
  more: { epoch: orNull(whole), seq: whole, rseq: whole, pos: text, more: truth, gone: truth, messages: list },
};

function fits(value, { needed, more }) {
  return (
    Object.entries(needed).every(([name, check]) => check(value[name])) &&
    Object.entries(more).every(([name, check]) => value[name] === undefined || check(value[name]))
  );
}

function parse(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function messageOf(value) {
  if (!object(value) || !fits(value, MESSAGE)) return null;
  const data = object(value.data) ? value.data : {};
  return { rseq: 0, name: "", role: "viewer", level: 0, n: 1, ...value, data };
}

/**
 * Returns a frame, a batch with its `messages` in order of `seq`, or null if it is outside the protocol.
 * A frame of an unknown type is returned as it is.
 */
export function readFrame(raw) {
  const end = raw.indexOf("\n");
  const frame = parse(end < 0 ? raw : raw.slice(0, end));
  if (!object(frame) || !text(frame.t)) return null;
  if (!Object.prototype.hasOwnProperty.call(FRAMES, frame.t)) return frame;
  if (!fits(frame, FRAMES[frame.t])) return null;
  if (frame.t !== "batch") return frame;
  const messages = [];
  for (const line of end < 0 ? [] : raw.slice(end + 1).split("\n")) {
    if (!line) continue;
    const message = messageOf(parse(line));
    if (message === null) return null;
    messages.push(message);
  }
  messages.sort((a, b) => a.seq - b.seq);
  return { pos: "", likes: null, viewers: null, ...frame, messages };
}

/** Returns a pull's answer with its messages, or null. */
export function readPulled(raw) {
  const answer = parse(raw);
  if (!object(answer) || !fits(answer, PULLED)) return null;
  const messages = (answer.messages ?? []).map(messageOf);
  if (messages.includes(null)) return null;
  return { epoch: null, seq: 0, rseq: 0, pos: "", more: false, gone: false, ...answer, messages };
}
