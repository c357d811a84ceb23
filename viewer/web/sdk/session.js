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
const MAX_RETRY_AFTER_S = 3600; // whatever a service or a proxy asks for
const STABLE_S = 10;
const HURRY_S = 1;
const PROBE_S = 5;
const NEW_TOKEN_S = 1;
const NEW_TOKEN_SPREAD_S = 5; // all viewers may come back at once: a revocation can be of everybody's tokens
const PULL_AGAIN_S = 0.5;
const JOIN_AGAIN_S = 1;
const MAX_GONE = 8; // answers in a row by which the log has nothing of the oldest hole any more
const MAX_DOUBLINGS = 16;
const MAX_BACK_MS = 60_000; // totals that are older by more come from a clock that was set
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
const OF_USER = ["token_missing", "token_invalid", "token_expired"];
const FOR_NOW = ["full", "rate_user", "rate_address"];

/** Returns what a client does after a connection that ended with `code`, or without one (null). */
export function ruleFor(code) {
  return CLOSES[code] ?? ABNORMAL;
}

function newPosition() {
  return {
    epoch: null, seq: 0, rseq: 0, pos: "", missing: [], asked: null, pullAt: 0, refusedUntil: 0, pulls: 0, gone: 0,
    isIn: false, isAside: false, joinAt: null, notBefore: 0, refusals: 0, likes: 0, likesEpoch: null, totalsAt: 0,
  };
}

/** Returns a delay that a refusal asks for, within bounds. */
const bounded = (retryAfterS) => Math.min(Math.max(retryAfterS ?? 0, 0), MAX_RETRY_AFTER_S);
const has = (object, name) => Object.prototype.hasOwnProperty.call(object, name); // Object.hasOwn is younger than the oldest browsers

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
    this.isStarted = false;
    this.isAttempting = false;
    this.suspect = null;
    this.asked = null;
    this.leaving = null;
    this.notBefore = 0;
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
    this.isRefused = false;
  }

  /** Whether the gateway has let the viewer into a room, on this connection. */
  get isIn() {
    return [...this.rooms.values()].some(({ isIn }) => isIn);
  }

  /** Whether the last entry was asked for with all the rooms that are wished now. */
  get isCovered() {
    return this.asked === null || [...this.#askable()].every(([room, position]) => this.asked.get(room) === position);
  }

  // ---- events
  start() {
    this.isStarted = true;
    return this.#connect();
  }

  /** Returns the rooms to ask an entry for, before each request. Connect only while `isCovered`; otherwise ask again. */
  ask() {
    this.asked = this.#askable();
    return [...this.asked.keys()];
  }

  opened(now) {
    if (this.state === "ended") return [{ type: "disconnect", code: NORMAL }];
    this.state = "open";
    this.leaving = null;
    this.isAttempting = this.isRevoked = false;
    this.openedAt = this.heardAt = now;
    this.#setHeartbeat(this.baseS, now);
    this.token = null;
    this.moveAt = null;
    const effects = this.#convict();
    if (!this.rooms.size || !this.isCovered) return [...effects, ...this.#disconnect(NORMAL)];
    for (const [room, position] of this.rooms) {
      if (now < position.notBefore) continue;
      position.joinAt = null;
      effects.push(this.#send(this.#join(room)));
    }
    this.#plan();
    return effects;
  }

  /**
   * Takes note that no connection could be made. `refusal`: the scheduler's answer, as a gateway would tell it in an error frame;
   * null where none came. `isFinal`: the same request cannot succeed later.
   */
  failed(now, uniform, refusal = null, isFinal = false) {
    if (this.state === "ended") return [];
    this.isAttempting = false;
    if (refusal?.code === "revoked") return this.#revoked(now, uniform, refusal);
    const effects = refusal !== null && isFinal ? this.#entryRefused(refusal) : [];
    if (this.state !== "ended") {
      this.notBefore = now + bounded(refusal?.retry_after_s);
      this.#wait(now, uniform, ABNORMAL.afterS);
    }
    return effects;
  }

  /** Takes note that the connection has ended with this code, or without one (null). */
  closed(code, now, uniform) {
    if (this.state === "ended") return [];
    const { leaving } = this;
    this.leaving = null;
    if (leaving !== null) code = leaving;
    const rule = ruleFor(code);
    if (rule === ABNORMAL && this.beatS > this.baseS) this.longestS = this.beatS * SHRINK_TO;
    for (const position of this.rooms.values())
      Object.assign(position, { asked: null, pullAt: position.refusedUntil, pulls: 0, gone: 0, isIn: false });
    if (now - this.openedAt > STABLE_S) this.attempts = 0;
    if (leaving === NORMAL || !this.rooms.size) return this.#connect();
    if (code === REVOKED) {
      this.reconnects += 1;
      return this.#revoked(now, uniform);
    }
    if (!rule.reconnect) return [this.#ended(rule)];
    this.reconnects += 1;
    this.#wait(now, uniform, Math.max(rule.afterS, this.isRefused ? JOIN_AGAIN_S : 0));
    return [];
  }

  received(raw, now, uniform = 1) {
    const frame = readFrame(raw);
    if (frame === null) {
      this.heardAt = now;
      this.badFrames += 1;
      return [];
    }
    if (!this.#listens) return [];
    this.heardAt = now;
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
        this.#carded(frame, effects);
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
      effects.push(...this.#connect());
    } else if (this.#listens) {
      if (now - this.heardAt >= this.silenceS || (this.moveAt !== null && now >= this.moveAt)) {
        effects.push(...this.#disconnect(GOING_AWAY));
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

  /**
   * Takes note that the network came back or the device woke up: retries soon, or probes the open connection.
   * `sleptS`: for how long the clock of `now` stood still.
   */
  hurry(now, uniform, sleptS = 0) {
    this.notBefore -= sleptS;
    for (const position of this.rooms.values()) {
      for (const name of ["notBefore", "refusedUntil", "pullAt"]) position[name] -= sleptS;
      if (position.joinAt !== null) position.joinAt -= sleptS;
    }
    if (this.retryAt !== null) {
      this.retryAt -= sleptS;
      if (!this.isRevoked) {
        this.attempts = 0;
        this.retryAt = Math.min(this.retryAt, Math.max(now, this.#earliest()) + uniform * HURRY_S);
      }
      this.#plan();
    }
    return this.probe(now);
  }

  /** Takes note that the network may be gone: expects a sign of life on an open connection within `PROBE_S`. */
  probe(now) {
    if (!this.#listens) return [];
    const effects = [];
    this.heardAt = Math.min(this.heardAt, now - this.silenceS + PROBE_S);
    this.#beat(now, effects);
    this.#plan();
    return effects;
  }

  /** Joins one more room. An open session connects again for it. */
  join(room) {
    if (this.rooms.has(room) || this.state === "ended") return [];
    this.rooms.set(room, newPosition());
    if (this.state === "idle" && this.isStarted) {
      if (this.isAttempting) {
        this.state = "connecting"; // it asks again, since this room is not covered
      } else if (this.retryAt === null) {
        return this.#connect();
      } else {
        this.state = "waiting";
        this.#plan();
      }
    }
    if (this.#listens) return this.#disconnect(NORMAL);
    if (this.state === "waiting" && this.isRefused && this.retryAt !== null) {
      this.retryAt = Math.min(this.retryAt, this.notBefore); // the other rooms wait, this one need not
      this.#plan();
    }
    return [];
  }

  /** Leaves a room. Without any the session rests until the next `join`. */
  leave(room) {
    if (!this.rooms.delete(room)) return [];
    this.#acquit(); // nobody knows any more whom the refusal concerned
    if ((this.state === "connecting" || this.state === "waiting") && !this.rooms.size) {
      this.state = "idle";
      this.#plan();
    }
    if (!this.#listens) return [];
    const effects = [this.#send({ t: "leave", room })];
    effects.push(...(this.rooms.size ? this.#elsewhere() : this.#disconnect(NORMAL)));
    this.#plan();
    return effects;
  }

  end() {
    const wasOpen = this.#listens;
    this.state = "ended";
    this.wakeAt = null;
    return wasOpen ? [{ type: "disconnect", code: NORMAL }] : [];
  }

  // ---- the connection
  /** Whether the connection is open, and the session has not asked for its end. */
  get #listens() {
    return this.state === "open" && this.leaving === null;
  }

  /** Connects for the rooms that are wished; rests where there is none. */
  #connect() {
    this.state = this.rooms.size ? "connecting" : "idle";
    this.isAttempting = this.rooms.size > 0;
    this.retryAt = this.wakeAt = null;
    this.isRefused = false;
    this.ask();
    return this.rooms.size ? [{ type: "connect" }] : [];
  }

  /** Closes the connection and takes nothing more from it. NORMAL: for another wish, so that the next attempt follows at once. */
  #disconnect(code) {
    this.leaving = code;
    this.wakeAt = null;
    return [{ type: "disconnect", code }];
  }

  /** Closes a connection whose rooms all refuse the viewer for now. */
  #elsewhere() {
    if (![...this.rooms.values()].every(({ isIn, joinAt }) => !isIn && joinAt !== null)) return [];
    this.isRefused = true;
    return this.#disconnect(GOING_AWAY);
  }

  /** Leaves the rooms that a refusal for good concerns, or sets the newest one aside. Wishes that came later are not concerned. */
  #entryRefused(refusal) {
    const asked = this.asked ?? new Map();
    let refused = [...asked].filter(([room, position]) => this.rooms.get(room) === position).map(([room]) => room);
    if (refusal.room) {
      refused = refused.filter((room) => room === refusal.room);
    } else if (refused.length < asked.size) {
      refused = []; // the next request is another one
    } else if (refused.length > 1 && !OF_USER.includes(refusal.code)) {
      const room = refused[refused.length - 1];
      this.suspect = { ...refusal, t: "error", room };
      this.rooms.get(room).isAside = true;
      return [];
    }
    const effects = refused.map((room) => ({ type: "told", what: { ...refusal, t: "error", room } }));
    for (const room of refused) this.rooms.delete(room);
    if (!this.#askable().size) this.#acquit();
    if (effects.length && !this.rooms.size)
      effects.push(this.#ended(ruleFor(has(OUT, refusal.code) ? OUT[refusal.code] : NORMAL), effects[effects.length - 1].what));
    return effects;
  }

  /** Returns the rooms that are not set aside. */
  #askable() {
    return new Map([...this.rooms].filter(([, { isAside }]) => !isAside));
  }

  /** Leaves the room without which an entry opens a connection, and takes back the others. */
  #convict() {
    const { suspect } = this;
    this.#acquit();
    if (suspect === null) return [];
    this.rooms.delete(suspect.room);
    return [{ type: "told", what: suspect }];
  }

  /** Takes back the rooms that are set aside. */
  #acquit() {
    this.suspect = null;
    for (const position of this.rooms.values()) position.isAside = false;
  }

  /** Ends the session for good, and returns the effect that says so. */
  #ended(rule, refusal = null) {
    this.state = "ended";
    this.wakeAt = null;
    return { type: "ended", rule, refusal };
  }

  /** Returns the time before which refusals forbid to connect. */
  #earliest() {
    const rooms = [...this.#askable().values()].map(({ notBefore }) => notBefore);
    return Math.max(this.notBefore, rooms.length ? Math.min(...rooms) : 0);
  }

  #send(frame) {
    return { type: "send", text: JSON.stringify(frame) };
  }

  #join(room) {
    const { epoch, seq, rseq } = this.rooms.get(room);
    return epoch === null ? { t: "join", room } : { t: "join", room, epoch, seq, rseq };
  }

  /** Connects once more, with a new token; ends where that is revoked too. */
  #revoked(now, uniform, refusal = null) {
    if (this.isRevoked) return [this.#ended(ruleFor(REVOKED), refusal && { ...refusal, t: "error" })];
    this.isRevoked = true;
    this.#retry(now + NEW_TOKEN_S + uniform * NEW_TOKEN_SPREAD_S);
    return [];
  }

  /** Waits before the next attempt: as long as refusals ask for, and full jitter. */
  #wait(now, uniform, baseS) {
    const afterS = Math.max(0, this.#earliest() - now);
    this.#retry(backOff(now, uniform, Math.max(baseS, 0.1), this.attempts, afterS));
    this.attempts += 1;
  }

  /** Makes the next attempt at `at`, once there is a room. */
  #retry(at) {
    this.retryAt = at;
    this.state = this.rooms.size ? "waiting" : "idle";
    this.#plan();
  }

  #plan() {
    if (this.state === "waiting") {
      this.wakeAt = this.retryAt;
    } else if (this.#listens) {
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
    const isForNow = FOR_NOW.includes(error.code) || (error.retry_after_s ?? null) !== null;
    if (has(OUT, error.code) && !isForNow) {
      this.rooms.delete(room);
      if (this.rooms.size === 0) {
        const code = OUT[error.code];
        effects.push({ type: "disconnect", code }, this.#ended(ruleFor(code), error));
        return;
      }
    } else if (isForNow) {
      const afterS = bounded(error.retry_after_s);
      const joinAt = backOff(now, uniform, JOIN_AGAIN_S, position.refusals, afterS);
      Object.assign(position, { isIn: false, joinAt, notBefore: now + afterS, refusals: position.refusals + 1 });
    } else {
      return;
    }
    effects.push(...this.#elsewhere());
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
    Object.assign(position, { isIn: true, joinAt: null, notBefore: 0, refusals: 0 });
    const { epoch = null, seq = null, rseq = null, resumed = false, pos = "" } = frame;
    const card = this.#newer(position, frame.card ?? null);
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

  #carded(frame, effects) {
    const { room } = frame;
    const card = this.rooms.has(room) ? this.#newer(this.rooms.get(room), frame.card) : null;
    if (card !== null) effects.push({ type: "card", room, card });
  }

  /** Returns a snapshot without likes that are too low; null where it is behind the viewer. */
  #newer(position, card) {
    if (card === null || (card.epoch ?? null) === null) return card;
    const isBehind = card.epoch < position.epoch || (card.epoch === position.epoch && (card.seq ?? 0) < position.seq);
    if (position.epoch !== null && isBehind) return null;
    const { likes = null } = card;
    if (likes !== null && this.#grown(position, card.epoch, likes) === null) return { ...card, likes: position.likes };
    return card;
  }

  /** Keeps a total of likes; returns null where a higher one of its epoch is known. */
  #grown(position, epoch, likes) {
    if (likes === null || (epoch === position.likesEpoch && likes < position.likes)) return null;
    Object.assign(position, { likes, likesEpoch: epoch });
    return likes;
  }

  /** Reports the totals of a batch behind this position; likes only ever grow. */
  #count(room, position, batch, effects) {
    const likes = this.#grown(position, batch.epoch, batch.likes);
    if (likes === null && batch.viewers === null) return;
    position.totalsAt = batch.at;
    effects.push({ type: "counts", room, likes, viewers: batch.viewers });
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
    const backMs = position.totalsAt - batch.at;
    const isNews = first > last && last === before && !(0 < backMs && backMs <= MAX_BACK_MS);
    if (last > before || isNews) this.#count(room, position, batch, effects);
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
    Object.assign(position, { epoch, seq, rseq, pos: "", asked: null, totalsAt: 0 });
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
    if (!this.#listens || this.token === null) return;
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
