// A viewer's connection to its rooms, free of I/O: events in, effects out. The theory of operation is in viewer/session.py; one
// table of cases runs through both (tests/browser/test_session_table.py).
//
// The caller carries out the effects (connect, send, pull, show) and calls `tick` at `wakeAt` at the latest. Time is seconds of
// a monotonic clock; `uniform` is a random number in [0, 1).

import { ABNORMAL, CLOSES } from "./closecodes.js";
import { readFrame, readPulled } from "./frames.js";

const HEARTBEAT_S = 20;
const SILENCE_S = 25;
const MAX_BACKOFF_S = 30;
const STABLE_S = 10;
const HURRY_S = 1;
const PROBE_S = 5;
const NEW_TOKEN_S = 1;
const NEW_TOKEN_SPREAD_S = 5; // all viewers may come back at once: a revocation can be of everybody's tokens
const PULL_AGAIN_S = 0.5;
const JOIN_AGAIN_S = 1;
const MAX_GONE = 8; // answers in a row by which the log has nothing of the oldest hole any more
const MAX_DOUBLINGS = 16;
const GROW_AFTER = 3; // answered beats
const GROW_BY = 1.25;
const GROW_TO = 2.5; // times the gateway's interval: it ends a connection silent for three
const SHRINK_TO = 0.8; // of the interval that a connection did not survive
const NORMAL = 1000;
const GOING_AWAY = 1001;
const REVOKED = 4013;
const OUT = {
  banned: 4003, kicked: 4012, room_dissolved: 4004, forbidden: NORMAL, room_invalid: NORMAL, too_many_rooms: NORMAL,
};
const FOR_NOW = ["full", "rate_user", "rate_address"];

/** Returns what a client does after a connection that ended with `code`, or without one (null). */
export function ruleFor(code) {
  return CLOSES[code] ?? ABNORMAL;
}

function newPosition() {
  return {
    epoch: null, seq: 0, rseq: 0, pos: "", missing: [], asked: null, pullAt: 0, refusedUntil: 0, pulls: 0, gone: 0,
    isIn: false, joinAt: null, refusals: 0,
  };
}

/** When to try again after `times` in vain: after `afterS` and full jitter, which is as wide: a whole address may wait. */
function backOff(now, uniform, firstS, times, afterS) {
  const limit = Math.min(MAX_BACKOFF_S, firstS * 2 ** Math.min(times, MAX_DOUBLINGS));
  return now + afterS + uniform * Math.max(limit, Math.min(afterS, MAX_BACKOFF_S));
}

export class Session {
  /** `battery`: send heartbeats as seldom as the network allows. */
  constructor(rooms, { battery = false } = {}) {
    this.state = "idle";
    this.rooms = new Map([...rooms].map((room) => [room, newPosition()]));
    this.wakeAt = null;
    this.thinned = 0;
    this.duplicates = 0;
    this.reconnects = 0;
    this.badFrames = 0;
    this.attempts = 0;
    this.isRevoked = false;
    this.openedAt = 0;
    this.heardAt = 0;
    this.token = null;
    this.battery = battery;
    this.baseS = this.beatS = HEARTBEAT_S;
    this.longestS = Infinity;
    this.answered = 0;
    this.beatenAt = null;
    this.beatAt = 0;
    this.silenceS = SILENCE_S;
    this.retryAt = null;
    this.moveAt = null;
    this.refusedS = 0;
  }

  // ---- events
  start() {
    this.state = "connecting";
    return [{ type: "connect" }];
  }

  opened(now) {
    this.state = "open";
    this.isRevoked = false;
    this.openedAt = this.heardAt = now;
    this.#setHeartbeat(this.baseS, now);
    this.token = null;
    this.moveAt = null;
    this.refusedS = 0;
    this.#plan();
    return [...this.rooms.keys()].map((room) => this.#send(this.#join(room)));
  }

  /** Takes note that no connection could be made. `retryAfterS`, `code`: the delay and the code of the scheduler's refusal. */
  failed(now, uniform, retryAfterS = null, code = "") {
    if (code === "revoked") return this.#revoked(now, uniform);
    this.#wait(now, uniform, Math.max(ABNORMAL.afterS, retryAfterS ?? 0));
    return [];
  }

  /** Takes note that the connection has ended with this code, or without one (null). */
  closed(code, now, uniform) {
    if (this.state === "ended") return [];
    const rule = ruleFor(code);
    if (rule === ABNORMAL && this.beatS > this.baseS) this.longestS = this.beatS * SHRINK_TO;
    const fresh = { asked: null, pullAt: 0, refusedUntil: 0, pulls: 0, gone: 0, isIn: false, joinAt: null };
    for (const position of this.rooms.values()) Object.assign(position, fresh);
    if (code === REVOKED) {
      this.reconnects += 1;
      return this.#revoked(now, uniform);
    }
    if (!rule.reconnect) {
      this.state = "ended";
      this.wakeAt = null;
      return [{ type: "ended", rule }];
    }
    if (now - this.openedAt > STABLE_S) this.attempts = 0;
    this.reconnects += 1;
    this.#wait(now, uniform, Math.max(rule.afterS, this.refusedS));
    return [];
  }

  received(raw, now, uniform = 1) {
    this.heardAt = now;
    const frame = readFrame(raw);
    if (frame === null) {
      this.badFrames += 1;
      return [];
    }
    const effects = [];
    switch (frame.t) {
      case "batch":
        this.#batch(frame, effects);
        break;
      case "hello":
        this.silenceS = frame.silence_s;
        this.token = frame.pull ?? "";
        this.#setHeartbeat(frame.heartbeat_s, now);
        break;
      case "joined":
        this.#joined(frame, effects);
        break;
      case "card":
        if (this.rooms.has(frame.room)) effects.push({ type: "card", room: frame.room, card: frame.card });
        break;
      case "move":
        this.moveAt = now + (frame.delay_s ?? 0);
        effects.push({ type: "moved", reason: frame.reason });
        break;
      case "error":
        this.#refused(frame, now, uniform, effects);
        break;
      case "notice":
      case "left":
        effects.push({ type: "told", what: frame });
        break;
      case "hb":
        break;
      default:
        return []; // a type of a later version
    }
    this.#pull(now, effects);
    this.#plan();
    return effects;
  }

  /** Takes the body of the answer to a room's pull. */
  pulled(room, raw, now, uniform) {
    const position = this.rooms.get(room);
    if (!position || position.epoch === null || position.asked === null) return []; // the pull is no longer wanted
    const answer = readPulled(raw);
    if (answer === null) {
      this.badFrames += 1;
      return this.pullFailed(room, now, uniform);
    }
    if (answer.epoch === null || answer.epoch < position.epoch) return this.pullFailed(room, now, uniform); // the gateway is behind
    const effects = [];
    const asked = position.asked;
    position.asked = null;
    if (answer.epoch > position.epoch) {
      this.#lose(room, position, position.rseq, effects);
    } else {
      for (const message of answer.messages)
        if (this.#fill(position, message.rseq)) effects.push({ type: "delivered", room, epoch: answer.epoch, message, late: true });
      this.#lose(room, position, answer.rseq, effects); // the gateway searched up to there: what is still missing never comes
      const moved = this.#moveOn(position, asked, answer);
      if (effects.length || (answer.more && moved)) {
        position.pulls = position.gone = 0;
        position.pullAt = answer.more ? now : now + uniform * PULL_AGAIN_S;
      } else if (answer.gone) {
        this.#giveUp(room, position, now, uniform, effects);
      } else {
        this.#backOff(position, now, uniform, 0);
      }
    }
    this.#pull(now, effects);
    this.#plan();
    return effects;
  }

  /** Takes note that a pull was not answered, or refused for the moment. `retryAfterS`: the delay that the gateway asked for. */
  pullFailed(room, now, uniform, retryAfterS = null) {
    const position = this.rooms.get(room);
    if (!position || position.asked === null) return [];
    const effects = [];
    position.asked = null;
    this.#backOff(position, now, uniform, retryAfterS ?? 0);
    if (retryAfterS) position.refusedUntil = position.pullAt;
    this.#pull(now, effects);
    this.#plan();
    return effects;
  }

  /** Takes note that a pull was refused for a reason that waiting does not end. */
  pullRefused(room, now, uniform) {
    const position = this.rooms.get(room);
    if (!position || position.asked === null) return [];
    const effects = [];
    position.asked = null;
    this.#giveUp(room, position, now, uniform, effects);
    this.#pull(now, effects);
    this.#plan();
    return effects;
  }

  tick(now) {
    const effects = [];
    if (this.state === "waiting" && this.retryAt !== null && now >= this.retryAt) {
      this.state = "connecting";
      this.retryAt = null;
      effects.push({ type: "connect" });
    } else if (this.state === "open") {
      if (now - this.heardAt >= this.silenceS || (this.moveAt !== null && now >= this.moveAt)) {
        this.moveAt = null;
        effects.push({ type: "disconnect", code: GOING_AWAY });
      } else {
        if (now >= this.beatAt) this.#beat(now, effects);
        for (const [room, position] of this.rooms) {
          if (position.joinAt === null || now < position.joinAt) continue;
          position.joinAt = null;
          effects.push(this.#send(this.#join(room)));
        }
        this.#pull(now, effects);
      }
    }
    this.#plan();
    return effects;
  }

  /** Takes note that the network came back or the device woke up: retries soon, or probes the open connection. */
  hurry(now, uniform) {
    if (this.state === "waiting" && this.retryAt !== null && !this.isRevoked) {
      this.attempts = 0;
      this.retryAt = Math.min(this.retryAt, now + uniform * HURRY_S);
      this.#plan();
    }
    return this.probe(now);
  }

  /** Takes note that the network may be gone: expects a sign of life on an open connection within `PROBE_S`. */
  probe(now) {
    if (this.state !== "open") return [];
    const effects = [];
    this.heardAt = Math.min(this.heardAt, now - this.silenceS + PROBE_S);
    this.#beat(now, effects);
    this.#plan();
    return effects;
  }

  join(room) {
    if (this.rooms.has(room)) return [];
    this.rooms.set(room, newPosition());
    return this.state === "open" ? [this.#send(this.#join(room))] : [];
  }

  leave(room) {
    if (!this.rooms.delete(room) || this.state !== "open") return [];
    this.#plan();
    return [this.#send({ t: "leave", room })];
  }

  end() {
    const wasOpen = this.state === "open";
    this.state = "ended";
    this.wakeAt = null;
    return wasOpen ? [{ type: "disconnect", code: NORMAL }] : [];
  }

  // ---- the connection
  #send(frame) {
    return { type: "send", text: JSON.stringify(frame) };
  }

  #join(room) {
    const { epoch, seq, rseq } = this.rooms.get(room);
    return epoch === null ? { t: "join", room } : { t: "join", room, epoch, seq, rseq };
  }

  /** Connects once more, with a new token; ends where that is revoked too. */
  #revoked(now, uniform) {
    if (this.isRevoked) {
      this.state = "ended";
      this.wakeAt = null;
      return [{ type: "ended", rule: ruleFor(REVOKED) }];
    }
    this.isRevoked = true;
    this.state = "waiting";
    this.retryAt = now + NEW_TOKEN_S + uniform * NEW_TOKEN_SPREAD_S;
    this.#plan();
    return [];
  }

  /** Waits before the next attempt, with full jitter. */
  #wait(now, uniform, baseS) {
    const limit = Math.min(MAX_BACKOFF_S, Math.max(baseS, 0.1) * 2 ** this.attempts);
    this.attempts = Math.min(this.attempts + 1, 16);
    this.state = "waiting";
    this.retryAt = now + uniform * limit;
    this.#plan();
  }

  #plan() {
    if (this.state === "waiting") {
      this.wakeAt = this.retryAt;
    } else if (this.state === "open") {
      let due = Math.min(this.beatAt, this.heardAt + this.silenceS);
      if (this.moveAt !== null) due = Math.min(due, this.moveAt);
      for (const { joinAt } of this.rooms.values()) due = Math.min(due, joinAt ?? Infinity);
      if (this.token !== null)
        for (const position of this.rooms.values())
          if (position.missing.length && position.asked === null) due = Math.min(due, position.pullAt);
      this.wakeAt = due;
    } else {
      this.wakeAt = null;
    }
  }

  /** Leaves a room that does not take this user, or joins it again later. */
  #refused(error, now, uniform, effects) {
    effects.push({ type: "told", what: error });
    const room = error.room ?? "";
    const position = this.rooms.get(room);
    if (!position) return;
    const retryAfterS = Math.min(Math.max(error.retry_after_s ?? 0, 0), MAX_BACKOFF_S);
    const isForNow = FOR_NOW.includes(error.code) || (error.retry_after_s ?? null) !== null;
    if (Object.hasOwn(OUT, error.code) && !isForNow) {
      this.rooms.delete(room);
      if (this.rooms.size === 0) {
        const code = OUT[error.code];
        this.state = "ended";
        effects.push({ type: "disconnect", code }, { type: "ended", rule: ruleFor(code) });
        return;
      }
    } else if (isForNow) {
      const joinAt = backOff(now, uniform, JOIN_AGAIN_S, position.refusals, retryAfterS);
      Object.assign(position, { isIn: false, joinAt, refusals: position.refusals + 1 });
    } else {
      return;
    }
    if ([...this.rooms.values()].every(({ isIn, joinAt }) => !isIn && joinAt !== null)) {
      this.refusedS = Math.max(JOIN_AGAIN_S, retryAfterS); // the scheduler may find another gateway
      effects.push({ type: "disconnect", code: GOING_AWAY });
    }
  }

  #setHeartbeat(intervalS, now) {
    this.baseS = this.beatS = intervalS;
    this.beatAt = now + intervalS;
    this.beatenAt = null;
    this.answered = 0;
  }

  #beat(now, effects) {
    if (this.battery && this.beatenAt !== null && this.heardAt > this.beatenAt) {
      this.answered += 1;
      if (this.answered === GROW_AFTER) {
        this.answered = 0;
        const limit = Math.min(this.baseS * GROW_TO, this.longestS);
        this.beatS = Math.max(this.baseS, Math.min(this.beatS * GROW_BY, limit));
      }
    }
    this.beatenAt = now;
    this.beatAt = now + this.beatS;
    effects.push(this.#send({ t: "hb" }));
  }

  // ---- numbers
  #joined(frame, effects) {
    const { room } = frame;
    const position = this.rooms.get(room);
    if (!position) return;
    Object.assign(position, { isIn: true, joinAt: null, refusals: 0 });
    const { epoch = null, seq = null, rseq = null, card = null, resumed = false, pos = "" } = frame;
    effects.push({ type: "entered", room, epoch, seq, rseq, card, resumed });
    if (epoch === null || seq === null || rseq === null || resumed) return;
    if (position.epoch !== null && epoch < position.epoch) return; // the gateway is behind
    if (position.epoch !== epoch) {
      this.#begin(room, position, epoch, seq, rseq, effects);
    } else {
      this.#skip(room, position, rseq, effects);
      effects.push({ type: "progress", room, epoch, rseq, first: false });
    }
    if (seq >= position.seq) {
      position.seq = seq;
      position.pos = pos || position.pos;
    }
  }

  #batch(batch, effects) {
    const { room, epoch, rseq, pos } = batch;
    const [first, last] = batch.seq;
    const position = this.rooms.get(room);
    if (!position || (position.epoch !== null && epoch < position.epoch)) return; // left a moment ago, or it is behind
    if (position.epoch !== epoch) {
      const reliable = batch.messages.filter((message) => message.rseq > 0).length;
      this.#begin(room, position, epoch, first - 1, rseq - reliable, effects);
    }
    const before = position.seq;
    const came = this.#deliver(batch, position, effects);
    this.#skip(room, position, rseq, effects);
    if (last >= before) {
      this.thinned += Math.max(0, last - Math.max(before, first - 1) - came);
      position.seq = last;
      position.pos = pos || position.pos;
    }
    effects.push({ type: "progress", room, epoch, rseq, first: false });
    if (batch.likes !== null || batch.viewers !== null)
      effects.push({ type: "counts", room, likes: batch.likes, viewers: batch.viewers });
  }

  /** Delivers what is new; returns how many messages came in order. */
  #deliver({ room, epoch, messages }, position, effects) {
    let came = 0;
    for (const message of messages) {
      const { seq, rseq } = message;
      if (position.missing.length && this.#fill(position, rseq)) {
        effects.push({ type: "delivered", room, epoch, message, late: true });
      } else if (seq <= position.seq || (rseq > 0 && rseq <= position.rseq)) {
        this.duplicates += 1;
      } else {
        position.seq = seq;
        if (rseq) {
          this.#skip(room, position, rseq - 1, effects);
          position.rseq = rseq;
        }
        effects.push({ type: "delivered", room, epoch, message, late: false });
        came += 1;
      }
    }
    return came;
  }

  /** Starts the numbers of an epoch; the holes of the one before are lost. */
  #begin(room, position, epoch, seq, rseq, effects) {
    if (position.epoch !== null) {
      this.#lose(room, position, position.rseq, effects);
      effects.push({ type: "renumbered", room, epoch });
    }
    Object.assign(position, { epoch, seq, rseq, pos: "", asked: null });
    effects.push({ type: "progress", room, epoch, rseq, first: true });
  }

  /** Go on to `toRseq`; what lies between did not come. */
  #skip(room, position, toRseq, effects) {
    if (position.epoch === null || toRseq <= position.rseq) return;
    if (!position.missing.length) Object.assign(position, { pullAt: position.refusedUntil, pulls: 0, gone: 0 });
    position.missing.push({ afterRseq: position.rseq, toRseq, pos: position.pos });
    effects.push({ type: "hole", room, epoch: position.epoch, afterRseq: position.rseq, toRseq });
    position.rseq = toRseq;
  }

  // ---- what is missing
  /** Ask for the oldest hole of each room, one pull at a time; no token: this gateway cannot be asked. */
  #pull(now, effects) {
    if (this.state !== "open" || this.token === null) return;
    for (const [room, position] of this.rooms) {
      if (!position.missing.length || position.asked !== null) continue;
      if (!this.token) {
        this.#lose(room, position, position.rseq, effects);
      } else if (now >= position.pullAt) {
        const { afterRseq, pos } = position.missing[0];
        position.asked = afterRseq;
        const params = { ...(pos ? { pos } : {}), epoch: String(position.epoch), after_rseq: String(afterRseq) };
        effects.push({ type: "pull", room, token: this.token, params });
      }
    }
  }

  /** Let the next pull begin where this one ended, unless it asks for a later hole, which has a nearer cursor. */
  #moveOn(position, asked, answer) {
    if (!position.missing.length || !answer.pos) return false;
    const [oldest] = position.missing;
    if (oldest.pos === answer.pos || oldest.afterRseq > Math.max(asked, answer.rseq)) return false;
    oldest.pos = answer.pos;
    return true;
  }

  /** Delays the next pull; loses the oldest hole after `MAX_GONE` of these in a row. */
  #giveUp(room, position, now, uniform, effects) {
    this.#backOff(position, now, uniform, 0);
    position.gone += 1;
    if (position.gone === MAX_GONE) {
      Object.assign(position, { pulls: 0, gone: 0, pullAt: now });
      if (position.missing.length) this.#lose(room, position, position.missing[0].toRseq, effects);
    }
  }

  /** Delays the next pull by `afterS` and full jitter. */
  #backOff(position, now, uniform, afterS) {
    position.pullAt = backOff(now, uniform, PULL_AGAIN_S, position.pulls, afterS);
    position.pulls += 1;
  }

  /** Take a number out of the holes; say whether it was in one. */
  #fill(position, rseq) {
    const index = position.missing.findIndex((hole) => hole.afterRseq < rseq && rseq <= hole.toRseq);
    if (index < 0) return false;
    const { afterRseq, toRseq, pos } = position.missing[index];
    const parts = [
      { afterRseq, toRseq: rseq - 1, pos },
      { afterRseq: rseq, toRseq, pos },
    ];
    position.missing.splice(index, 1, ...parts.filter((part) => part.toRseq > part.afterRseq));
    return true;
  }

  /** Give up what is missing up to `toRseq`. */
  #lose(room, position, toRseq, effects) {
    if (position.epoch === null) return;
    const left = [];
    for (const hole of position.missing) {
      if (hole.afterRseq < toRseq)
        effects.push({ type: "lost", room, epoch: position.epoch, afterRseq: hole.afterRseq, toRseq: Math.min(hole.toRseq, toRseq) });
      if (hole.toRseq > toRseq) left.push({ ...hole, afterRseq: Math.max(hole.afterRseq, toRseq) });
    }
    position.missing = left;
  }
}
