// A viewer of live rooms in a browser: the session's rules with sockets, timers and requests around them.
//
// Owns the connection: the fastest of the gateways that the scheduler names, WebSocket where the network lets it through, else
// events over HTTP; pulls; background tabs, sleep and lost networks. It shows nothing itself: `onEffect` gets
// everything that happens, in order. No dependencies, no build: `import { LiveRoom } from "./sdk/liveroom.js"`.

import { readFrame } from "./frames.js";
import { ask, currentToken, isPassing, limit, LiveRoomError, problemOf, Refused, retryAfter, unconnected } from "./requests.js";
import { Session } from "./session.js";

const SUBPROTOCOL = "liveroom.v1.json";
const CONNECT_S = 5;
const STAGGER_S = 0.25;
const PULL_S = 10;
const ENTRY_S = 5;
const SAID_AGAIN = 3;
const MOST_RETRY_AFTER_S = 3600; // whatever a service or a proxy says
const MOST_JITTER_S = 30;
const MOST_PAUSE_S = 30; // of a sender: nobody expects what was sent to appear later than that
const EVENTS_FOR_S = 300; // how long to skip WebSocket after only events got through
const AWAKE_MS = 2000; // how often to compare the clocks
const SLEPT_S = 2; // a wall clock that is ahead by more than before: the device slept, or the clock was set
const NORMAL = 1000;
const DEVICE_KEY = "liveroom-device";
const DEVICE = /^[A-Za-z0-9_.:-]{1,64}$/;
const ROOM = /^[A-Za-z0-9_-]{1,64}$/;

const clock = () => performance.now() / 1000;
const aheadS = () => Date.now() / 1000 - clock(); // grows in sleep, where `clock` stands still on every system but Windows
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

let pagesDevice = "";

/** Returns this browser's device id; where the browser stores nothing (private windows), an id that lasts as long as the page. */
export function deviceId() {
  pagesDevice ||= newId();
  try {
    const kept = localStorage.getItem(DEVICE_KEY) ?? "";
    if (DEVICE.test(kept)) pagesDevice = kept;
    else localStorage.setItem(DEVICE_KEY, pagesDevice);
  } catch {
    // It throws on access or when full, and some browsers drop what is set: the page keeps the id.
  }
  return pagesDevice;
}

/** Returns the device id that the application gives, or this browser's where it gives none. */
function deviceOf(given) {
  if (given === undefined || given === null || given === "") return deviceId();
  if (typeof given !== "string") throw new TypeError(`device: ${typeof given} is not a text`);
  if (!DEVICE.test(given)) throw new RangeError(`device: ${JSON.stringify(given)} is not 1 to 64 of A-Z a-z 0-9 _ . : -`);
  return given;
}

/** Hands an error of the application to the page's own handlers; `reportError` is younger than the oldest browsers. */
function report(error) {
  setTimeout(() => {
    throw error;
  });
}

/** Returns how long to wait before a retry: at least as long as a refusal asks for, with jitter that spreads those told the same. */
function pauseFor(retryAfterS, leastS) {
  const waits = Math.max(Math.min(retryAfterS, MOST_RETRY_AFTER_S), leastS);
  return waits + Math.random() * Math.min(waits, MOST_JITTER_S);
}

/** A connection over WebSocket. `closed(code)` is called once, with null where there was no code. */
class Socket {
  static kind = "websocket";

  constructor(url, ticket, { opened, received, closed }) {
    this.url = url;
    const socket = new WebSocket(`${url}?ticket=${encodeURIComponent(ticket)}`, SUBPROTOCOL);
    this.socket = socket;
    socket.onopen = () => opened();
    socket.onmessage = (event) => received(event.data);
    socket.onclose = (event) => closed(event.code === 1005 || event.code === 1006 ? null : event.code);
  }

  send(text) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(text);
  }

  /** Closes the connection without calling `closed`. */
  drop() {
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.close(NORMAL);
  }
}

/** A connection over server-sent events; the viewer's frames go by requests, one after the other. */
class Events {
  static kind = "events";

  constructor(url, ticket, { opened, received, closed }) {
    this.url = url;
    this.address = `${httpOf(url)}/v1/events`;
    this.pull = "";
    this.waiting = [];
    this.closed = closed;
    let isOpen = false;
    const source = new EventSource(`${this.address}?ticket=${encodeURIComponent(ticket)}`);
    this.source = source;
    source.onmessage = (event) => {
      if (!isOpen) {
        const hello = readFrame(event.data); // it holds the token to speak with
        if (hello?.t !== "hello") return;
        isOpen = true;
        this.pull = hello.pull ?? "";
        opened();
      }
      received(event.data);
    };
    source.addEventListener("close", (event) => this.#end(Number.parseInt(event.data, 10)));
    source.onerror = () => this.#end(null); // by itself it would reconnect with the same ticket; the session decides that
  }

  send(text) {
    this.waiting.push(text);
    if (this.waiting.length === 1) this.#speak();
  }

  drop() {
    this.closed = () => {};
    this.waiting = [];
    this.source.close();
  }

  /** Sends the waiting frames. One that cannot be sent ends the connection: a join that is lost would never be noticed. */
  async #speak() {
    for (let attempt = 1; this.waiting.length; attempt += 1) {
      let retryAfterS = 0;
      try {
        const headers = { Authorization: `Bearer ${this.pull}` };
        const answer = await fetch(this.address, { method: "POST", headers, body: this.waiting[0], signal: limit(ENTRY_S) });
        if (isPassing(answer.status)) {
          retryAfterS = retryAfter(answer, problemOf(await answer.text())) ?? 0;
          throw new Error(answer.statusText);
        }
      } catch {
        const isLast = attempt === SAID_AGAIN;
        if (!isLast || retryAfterS) await sleep(pauseFor(retryAfterS, 0.2 * attempt)); // sending twice does no harm
        if (isLast) this.#end(null);
        continue;
      }
      this.waiting.shift(); // where the gateway does not know the stream, the stream ends too
      attempt = 0;
    }
  }

  #end(code) {
    this.source.close();
    const { closed } = this;
    this.closed = () => {};
    this.waiting = [];
    closed(code);
  }
}

/** Returns the delay that a failure asks for; below 0 where it is no refusal. */
const delayOf = (failure) => (failure instanceof Refused ? failure.retryAfterS : -1);

/** Returns a service's address without the spaces around it and the slashes at its end, so that paths can be appended. */
const base = (address) => String(address).trim().replace(/\/+$/, "");

/** Returns what the scheduler's answer lacks, in words; "" where it is whole. */
function lackOf({ gateways, ticket }) {
  if (!Array.isArray(gateways) || !gateways.length) return "names no gateways";
  if (!gateways.every((gateway) => typeof gateway?.url === "string")) return "names a gateway without an address";
  return typeof ticket === "string" ? "" : "gives no ticket";
}

const httpOf = (url) => url.replace(/^ws/, "http").replace(/\/v1\/live$/, "");

/**
 * Rooms, live.
 * - `scheduler`: its address, or several; `rooms`: ids; `token`: a user token, or a function that gets one (maybe async);
 *   without it the viewer is a guest.
 * - `device`: the id of the user's device; without it, or empty, one that this browser keeps (`deviceId`). Throws RangeError
 *   or TypeError where it is no device id.
 * - `onEffect(effect)`: what happens (see liveroom.d.ts). `onState({state, gateway, transport, retryInS})`: the connection.
 * - `transports`: ["websocket", "events"] in the order in which they are tried.
 */
export class LiveRoom {
  constructor({ scheduler, rooms, token = null, onEffect = () => {}, onState = () => {}, battery = false, transports, device }) {
    this.schedulers = [scheduler].flat().map(base);
    this.rooms = new Set(rooms);
    this.battery = battery;
    this.session = new Session(this.rooms, { battery });
    this.token = token;
    this.device = deviceOf(device);
    this.onEffect = onEffect;
    this.onState = onState;
    this.transports = transports ?? ["websocket", "events"];
    this.gateway = "";
    this.connection = null;
    this.pulls = new Map();
    this.timer = 0;
    this.attempt = 0;
    this.eventsUntil = 0;
    this.hiddenAt = null;
    this.aheadS = aheadS();
    this.isOver = false;
    this.failure = null;
    this.watched = new AbortController();
  }

  /** Begins to watch, or begins anew after the end: with the rooms that are wished then. Does nothing while it watches. */
  start() {
    if (this.session.state === "ended") this.#renew();
    else if (this.session.isStarted) return this;
    const { signal } = this.watched;
    const hurry = () => this.#goOn(true);
    window.addEventListener("online", hurry, { signal });
    window.addEventListener("offline", () => this.#act(this.session.probe(clock())), { signal });
    window.addEventListener("pageshow", ({ persisted }) => persisted && hurry(), { signal });
    document.addEventListener("resume", hurry, { signal }); // the page was frozen
    document.addEventListener(
      "visibilitychange",
      () => {
        if (document.hidden) {
          this.hiddenAt = clock();
        } else if (this.hiddenAt !== null) {
          const away = clock() - this.hiddenAt; // timers of hidden pages run late
          this.hiddenAt = null;
          this.#goOn(away > this.session.silenceS || this.session.state === "waiting");
        }
      },
      { signal },
    );
    this.#act(this.session.start());
    return this;
  }

  #renew() {
    this.#stop(); // whatever is still under way is of the session before
    this.session = new Session(this.rooms, { battery: this.battery });
    this.watched = new AbortController();
    this.aheadS = aheadS();
    this.hiddenAt = null;
    this.isOver = false;
    this.failure = null;
    this.told = "";
  }

  /** Joins one more room through a new entry: a ticket covers only the rooms it was requested for. After the end: at the next start. */
  join(room) {
    this.rooms.add(room);
    this.#act(this.session.join(room));
  }

  /** Leaves a room. Without any there is no connection until the next `join`. */
  leave(room) {
    this.rooms.delete(room);
    this.#act(this.session.leave(room));
  }

  /** Ends until the next start. */
  end() {
    this.session.end();
    this.#stop();
    this.isOver = true;
    this.#tell(); // the last step: the application may start anew at once
  }

  #stop() {
    this.watched.abort();
    this.attempt += 1;
    this.#drop();
    clearTimeout(this.timer);
  }

  // ---- effects of the session
  /** Carries out effects that the session has just returned. The rest is void once the application ends it, or starts another. */
  #act(effects) {
    const { session } = this;
    for (const effect of effects) {
      if (this.isOver || session !== this.session) return;
      switch (effect.type) {
        case "connect":
          this.#connect();
          break;
        case "send":
          this.connection?.send(effect.text);
          break;
        case "disconnect":
          this.#disconnect(effect.code);
          break;
        case "pull":
          this.#pull(effect);
          break;
        case "ended":
          this.watched.abort(); // before the application is told: it may start anew at once
          this.#tellApp(this.onEffect, effect);
          break;
        default:
          this.#tellApp(this.onEffect, effect);
      }
    }
    this.#plan();
    this.#tell();
  }

  #plan() {
    clearTimeout(this.timer);
    const { wakeAt } = this.session;
    if (wakeAt === null) return;
    const ms = Math.min(AWAKE_MS, Math.max(0, (wakeAt - clock()) * 1000));
    this.timer = setTimeout(() => this.#goOn(), ms);
  }

  /** Does what is due. `hurries`: the network or the page is back. */
  #goOn(hurries = false) {
    this.#act([...this.#slept(hurries), ...this.session.tick(clock())]);
  }

  /**
   * Notices a sleep by the clocks alone, and returns the effects. Called before each event that may set a delay: one that
   * begins after the sleep is whole.
   */
  #slept(hurries = false) {
    const before = this.aheadS;
    this.aheadS = aheadS();
    const sleptS = this.aheadS - before > SLEPT_S ? this.aheadS - before : 0;
    return hurries || sleptS ? this.session.hurry(clock(), Math.random(), sleptS) : [];
  }

  /** Tells the application about the connection. One that has let the viewer into no room is not "open" to people. */
  #tell() {
    const { state, retryAt, isIn } = this.session;
    const transport = this.connection?.constructor.kind ?? null;
    const isWaiting = state === "waiting";
    const told = {
      state: state === "open" && !isIn ? "connecting" : state,
      gateway: this.gateway,
      transport,
      retryInS: isWaiting ? Math.max(0, retryAt - clock()) : null,
      failure: isWaiting ? this.failure : null,
      refused: isWaiting && this.failure instanceof Refused ? this.failure : null,
    };
    const key = `${told.state} ${told.gateway} ${told.transport} ${told.failure?.code}`;
    if (key === this.told) return;
    this.told = key;
    this.#tellApp(this.onState, told);
  }

  /** An error that the application throws ends nothing here. */
  #tellApp(listener, told) {
    try {
      listener(told);
    } catch (error) {
      report(error);
    }
  }

  // ---- connecting
  async #connect() {
    const attempt = ++this.attempt;
    let won = null;
    let failure = null;
    try {
      do {
        won?.connection.drop(); // it cannot join the rooms that came meanwhile
        won = null;
        const rooms = this.session.ask();
        if (!rooms.length) break;
        const entry = await this.#entry(rooms);
        if (attempt !== this.attempt) return;
        if (!this.session.isCovered || !this.session.rooms.size) continue;
        won = await this.#open(entry, attempt);
        failure = won === null ? unconnected(entry.gateways.map(({ url }) => url)) : null;
      } while (attempt === this.attempt && !this.session.isCovered);
    } catch (error) {
      failure = error;
    }
    if (attempt !== this.attempt) {
      won?.connection.drop();
      return;
    }
    this.failure = failure;
    if (won === null) {
      this.#act([...this.#slept(), ...this.#failed(failure)]);
      return;
    }
    this.connection = won.connection;
    this.gateway = won.gateway.id;
    won.started();
  }

  #failed(failure) {
    if (!(failure instanceof Refused)) return this.session.failed(clock(), Math.random());
    const { status, code, detail, room, retryAfterS, untilMs, requestId, isFinal } = failure;
    const isRenewed = status === 401 && typeof this.token === "function"; // it may have another token next time
    const told = { code, detail, room, retry_after_s: retryAfterS || null, until_ms: untilMs, request_id: requestId };
    return this.session.failed(clock(), Math.random(), told, isFinal && !isRenewed);
  }

  /** Returns the headers that say who asks: nobody, for a guest. An error of the application's function is reported too. */
  async #headers() {
    if (this.token === null || this.token === undefined) return {};
    try {
      return { Authorization: `Bearer ${await currentToken(this.token)}` };
    } catch (error) {
      if (error.code === "token_failed") report(error.cause);
      throw error;
    }
  }

  /** Asks the schedulers, in random order until one answers itself (not a proxy before it), for an entry to these rooms. */
  async #entry(rooms) {
    const query = new URLSearchParams([...rooms.map((room) => ["room", room]), ["device", this.device]]);
    const headers = await this.#headers();
    const urls = this.schedulers.map((url) => [Math.random(), url]).sort().map(([, url]) => url);
    let failure = null;
    for (const url of urls) {
      try {
        const entry = await ask(`${url}/v1/entry?${query}`, { headers });
        const wrong = lackOf(entry);
        if (!wrong) return entry;
        throw new LiveRoomError("bad_answer", `${url} ${wrong}`, { status: 200 });
      } catch (error) {
        if (error.isOurs) throw error;
        if (failure === null || delayOf(error) > delayOf(failure)) failure = error;
      }
    }
    throw failure;
  }

  async #open(entry, attempt) {
    const [first, ...rest] = this.transports;
    const skipsFirst = rest.length && clock() < this.eventsUntil;
    const won = skipsFirst ? null : await this.#race(entry, first, attempt);
    if (won !== null) return won;
    for (const kind of rest) {
      const other = attempt === this.attempt ? await this.#race(entry, kind, attempt) : null;
      if (other !== null) {
        this.eventsUntil = clock() + EVENTS_FOR_S;
        return other;
      }
    }
    this.eventsUntil = 0;
    return null;
  }

  /** Connects to the addresses, each a little after the one before or at once when one fails; the first to open wins. */
  #race({ gateways, ticket }, kind, attempt) {
    const Transport = kind === "events" ? Events : Socket;
    return new Promise((resolve) => {
      const waiting = [...gateways];
      const running = new Set();
      let isOver = false;
      let stagger = 0;

      const finish = (won) => {
        isOver = true;
        clearTimeout(stagger);
        clearTimeout(limit);
        for (const connection of running) if (connection !== won?.connection) connection.drop();
        resolve(won);
      };
      const next = () => {
        clearTimeout(stagger);
        if (isOver) return;
        if (attempt !== this.attempt || (!waiting.length && !running.size)) {
          finish(null);
          return;
        }
        if (!waiting.length) return;
        const gateway = waiting.shift();
        const early = []; // frames that arrived before it won
        let isOurs = false;
        let gone; // the code, if it ended before that
        const heard = {
          opened: () => {
            if (isOver) return;
            finish({
              gateway,
              connection,
              started: () => {
                isOurs = true;
                this.#act([...this.#slept(), ...this.session.opened(clock())]);
                for (const text of early.splice(0)) this.#received(connection, text);
                if (gone !== undefined) this.#closed(connection, gone);
              },
            });
          },
          received: (text) => (isOurs ? this.#received(connection, text) : early.push(text)),
          closed: (code) => {
            gone = code;
            running.delete(connection);
            if (isOurs) this.#closed(connection, code);
            else next();
          },
        };
        let connection;
        try {
          connection = new Transport(gateway.url, ticket, heard);
        } catch {
          next(); // an address that the browser refuses
          return;
        }
        running.add(connection);
        if (waiting.length) stagger = setTimeout(next, STAGGER_S * 1000);
      };
      const limit = setTimeout(() => finish(null), CONNECT_S * 1000);
      next();
    });
  }

  #received(connection, text) {
    if (connection !== this.connection) return;
    this.#act([...this.#slept(), ...this.session.received(text, clock(), Math.random())]);
    const { wakeAt } = this.session; // frames that arrive faster than a timer runs would postpone due work for ever
    if (wakeAt !== null && clock() >= wakeAt) this.#goOn();
  }

  #closed(connection, code) {
    if (connection === this.connection) this.#disconnect(code);
  }

  /** Drops the connection without waiting for its end, which a dead one would delay. */
  #disconnect(code) {
    this.#drop();
    this.#act([...this.#slept(), ...this.session.closed(code, clock(), Math.random())]);
  }

  #drop() {
    this.connection?.drop();
    this.connection = null;
    for (const pull of this.pulls.values()) pull.abort();
    this.pulls.clear();
  }

  // ---- pulls
  async #pull({ room, token, params }) {
    if (this.connection === null) return;
    this.pulls.get(room)?.abort();
    const pull = new AbortController();
    this.pulls.set(room, pull);
    const url = `${httpOf(this.connection.url)}/v1/rooms/${encodeURIComponent(room)}/messages?${new URLSearchParams(params)}`;
    let effects;
    try {
      const answer = await fetch(url, { headers: { Authorization: `Bearer ${token}` }, signal: limit(PULL_S, pull.signal) });
      const body = await answer.text();
      if (this.pulls.get(room) !== pull) return;
      const waits = answer.ok ? 0 : Math.min(retryAfter(answer, problemOf(body)) ?? 0, MOST_RETRY_AFTER_S);
      if (answer.ok) effects = () => this.session.pulled(room, body, clock(), Math.random());
      else if (isPassing(answer.status)) effects = () => this.session.pullFailed(room, clock(), Math.random(), waits);
      else effects = () => this.session.pullRefused(room, clock(), Math.random());
    } catch {
      if (this.pulls.get(room) !== pull) return;
      effects = () => this.session.pullFailed(room, clock(), Math.random());
    }
    this.pulls.delete(room);
    this.#act([...this.#slept(), ...effects()]);
  }
}

/** Sends interactions through ingress. Every attempt has the same id, so nothing happens twice. */
export class Sender {
  constructor({ ingress, token, attempts = 4 }) {
    this.ingress = base(ingress);
    this.token = token;
    this.attempts = attempts;
  }

  /**
   * Sends to a room: `path` is danmaku, gifts, likes, packages, ... Returns what was accepted, with the `text` as viewers see it
   * where words were masked. Throws `LiveRoomError`.
   */
  async send(room, path, body = {}) {
    if (typeof room !== "string" || !ROOM.test(room)) throw new LiveRoomError("room_invalid"); // some change the request's path
    if (typeof body !== "object" || body === null || Array.isArray(body)) throw new LiveRoomError("bad_json", "the body is no object");
    const answer = await this.call("POST", `/v1/rooms/${room}/${path}`, { ...body, id: body.id ?? newId() });
    if (typeof answer.id === "string" && Number.isFinite(answer.at_ms)) return { room, kind: "", text: "", ...answer };
    throw new LiveRoomError("bad_answer", `${this.ingress} does not say what it accepted`, { status: 202 });
  }

  /** Calls ingress; retries after 5xx, 408 and silence, up to the number of attempts; a delay of more than 30 s is the caller's. */
  async call(method, path, body) {
    const sent = body === undefined ? undefined : written(body);
    const type = sent === undefined ? {} : { "Content-Type": "application/json" };
    for (let attempt = 1; ; attempt += 1) {
      const headers = { Authorization: `Bearer ${await currentToken(this.token)}`, ...type };
      try {
        return await ask(`${this.ingress}${path}`, { method, headers, body: sent, timeoutS: 8 });
      } catch (error) {
        const isUnknown = !(error instanceof Refused) || error.status >= 500 || error.status === 408; // it may have been written
        if (!isUnknown || attempt >= this.attempts || error.retryAfterS > MOST_PAUSE_S) throw error;
        await sleep(pauseFor(error.retryAfterS, 0.5 * attempt));
      }
    }
  }
}

/** Returns the body as JSON, or throws a `LiveRoomError` where it cannot be written. */
function written(body) {
  try {
    return JSON.stringify(body);
  } catch (error) {
    throw new LiveRoomError("bad_json", error.message, { cause: error });
  }
}

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
