// Frames from a gateway, parsed strictly: anything outside the protocol is null. Pure. The fields are those of
// docs/viewer-protocol.md, and those that are left out come at their defaults, so that applications get what liveroom.d.ts says.
// Fields, kinds and types of a later version are no errors: they are passed through.

import { BODIES, MODES } from "./bodies.js";

const text = (value) => typeof value === "string";
const whole = (value) => Number.isSafeInteger(value);
const number = (value) => typeof value === "number";
const truth = (value) => typeof value === "boolean";
const pair = (value) => Array.isArray(value) && value.length === 2 && value.every(whole);
const object = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const list = (value) => Array.isArray(value);
const texts = (value) => Array.isArray(value) && value.every(text);
const any = (value) => value !== undefined;
const kind = text; // including kinds of later versions: they are numbered too, and an older client skips them
const orNull = (check) => (value) => value === null || check(value);
const CHECKS = { text, whole, number: Number.isFinite, truth, texts, any };
const isOf = (type, value) => (Array.isArray(type) ? type.includes(value) : CHECKS[type](value));

const NUMBER = [orNull(whole), null];
const CARD = {
  needed: {},
  more: {
    epoch: NUMBER, seq: NUMBER, rseq: NUMBER, likes: NUMBER, users: NUMBER, connections: NUMBER, settings: [any, null],
    announcement: [any, null], messages: [list, []], reliable: [list, []], tombstones: [list, []],
  },
};
const card = (value) => object(value) && fits(value, CARD);
const FRAMES = {
  hello: {
    needed: { gateway: text, generation: whole, heartbeat_s: number, silence_s: number, user: text },
    more: { pull: [text, ""], request_id: [text, ""] },
  },
  joined: {
    needed: { room: text },
    more: { epoch: NUMBER, seq: NUMBER, rseq: NUMBER, pos: [text, ""], resumed: [truth, false], card: [orNull(card), null] },
  },
  card: { needed: { room: text, card }, more: {} },
  batch: {
    needed: { room: text, epoch: whole, seq: pair, rseq: whole, at: whole },
    more: { pos: [text, ""], skipped: [whole, 0], likes: NUMBER, viewers: [orNull(pair), null] },
  },
  notice: {
    needed: { room: text, kind, id: text, at: whole },
    more: { until_ms: [whole, 0], why: [text, ""], by_role: [text, ""] },
  },
  move: { needed: { reason: text }, more: { delay_s: [number, 0] } },
  left: { needed: { room: text }, more: {} },
  hb: { needed: { at: whole }, more: {} },
  error: {
    needed: { code: text },
    more: {
      detail: [text, ""], room: [text, ""], retry_after_s: [orNull(number), null], until_ms: [whole, 0], request_id: [text, ""],
    },
  },
};
const MESSAGE = {
  needed: { seq: whole, kind, id: text, user: text, at: whole },
  more: {
    rseq: [whole, 0], name: [text, ""], role: [text, "viewer"], level: [whole, 0], n: [whole, 1], package: [text, ""], data: [any, {}],
  },
};
const PULLED = {
  needed: { room: text },
  more: {
    epoch: NUMBER, seq: [whole, 0], rseq: [whole, 0], pos: [text, ""], more: [truth, false], gone: [truth, false],
    messages: [list, []],
  },
};

function fits(value, { needed, more }) {
  return (
    Object.entries(needed).every(([name, check]) => check(value[name])) &&
    Object.entries(more).every(([name, [check]]) => value[name] === undefined || check(value[name]))
  );
}

const copied = (usual) => (Array.isArray(usual) ? [...usual] : usual); // an application may change what it gets

/** Returns a value with the fields that it leaves out. */
function completed(value, { more }) {
  const made = { ...value };
  for (const [name, [, usual]] of Object.entries(more)) if (made[name] === undefined) made[name] = copied(usual);
  return made;
}

/** Returns a body or modes with the usual value in place of what is left out or of another type: other services write any JSON. */
function filled(value, fields) {
  const made = object(value) ? { ...value } : {};
  for (const [name, [type, usual]] of Object.entries(fields)) if (!isOf(type, made[name])) made[name] = copied(usual);
  return made;
}

/** Returns the modes that a change names; those of another type are no change. */
function changeOf(value) {
  const made = object(value) ? { ...value } : {};
  for (const [name, [type]] of Object.entries(MODES)) if (!isOf(type, made[name])) delete made[name];
  return made;
}

function bodyOf(kind, data) {
  if (kind === "room") return changeOf(data);
  if (Object.prototype.hasOwnProperty.call(BODIES, kind)) return filled(data, BODIES[kind]);
  return object(data) ? data : {};
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
  return { ...completed(value, MESSAGE), data: bodyOf(value.kind, value.data) };
}

function cardOf(value) {
  const made = completed(value, CARD);
  const messages = (lines) => lines.map(messageOf).filter((message) => message !== null);
  return {
    ...made,
    settings: made.settings === null ? null : filled(made.settings, MODES),
    announcement: messageOf(made.announcement),
    messages: messages(made.messages),
    reliable: messages(made.reliable),
  };
}

/**
 * Returns a frame, a batch with its `messages` in order of `seq`, or null if it is outside the protocol.
 * A frame of an unknown type is returned as it is.
 */
export function readFrame(raw) {
  const end = raw.indexOf("\n");
  const found = parse(end < 0 ? raw : raw.slice(0, end));
  if (!object(found) || !text(found.t)) return null;
  if (!Object.prototype.hasOwnProperty.call(FRAMES, found.t)) return found;
  if (!fits(found, FRAMES[found.t])) return null;
  const frame = completed(found, FRAMES[found.t]);
  if (object(frame.card)) frame.card = cardOf(frame.card);
  if (frame.t !== "batch") return frame;
  const messages = [];
  for (const line of end < 0 ? [] : raw.slice(end + 1).split("\n")) {
    if (!line) continue;
    const message = messageOf(parse(line));
    if (message === null) return null;
    messages.push(message);
  }
  messages.sort((a, b) => a.seq - b.seq);
  return { ...frame, messages };
}

/** Returns a pull's answer with its messages, or null. */
export function readPulled(raw) {
  const answer = parse(raw);
  if (!object(answer) || !fits(answer, PULLED)) return null;
  const made = completed(answer, PULLED);
  const messages = made.messages.map(messageOf);
  return messages.includes(null) ? null : { ...made, messages };
}
