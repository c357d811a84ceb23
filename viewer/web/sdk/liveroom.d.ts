/** Types of the SDK, an ES module without dependencies. Docs: docs/sdk.md of the project. */

import type { Bodies, RoomSettings, Sendable } from "./bodies.js";

export type {
  Announcement, Bodies, Clear, Coupon, Custom, Danmaku, Draft, Gift, Goods, Identified, Item, Like, RedPacket, RoomChange,
  RoomSettings, Sendable, Visit,
} from "./bodies.js";

/** A kind that this version does not know: any other text. To compare it with one that you know, cast: `(message.kind as string) === "vote"`. */
declare enum LaterKind {
  any = "(any other)", // only an enum is a text that TypeScript tells from all others, so that `kind` tells what `data` is
}
export type { LaterKind };

/** A message's kind. A later version may have more of them, so handle the kinds that you know and pass over the others. */
export type Kind = keyof Bodies | LaterKind;

/** A message of one kind. What a sender left out is at its default. */
export interface MessageOf<K extends Kind, Data> {
  seq: number;
  /** Above 0 for reliable kinds. */
  rseq: number;
  kind: K;
  id: string;
  /** A user id. `userText` returns the text that the identity service knows. */
  user: string;
  name: string;
  /** viewer, streamer, moderator, ...; a later version may have more of them. */
  role: string;
  level: number;
  /** When it was accepted, in milliseconds of Unix time. */
  at: number;
  /** The number of identical messages that it stands for. */
  n: number;
  /** The package that it belongs to, by its sender's name for it, or "". */
  package: string;
  data: Data;
}

/** One message of a room: `kind` tells what `data` is. */
export type Message = { [K in keyof Bodies]: MessageOf<K, Bodies[K]> }[keyof Bodies] | MessageOf<LaterKind, Record<string, unknown>>;

/** The snapshot of a room that a viewer gets on entering. null: unknown. */
export interface Card {
  epoch: number | null;
  seq: number | null;
  rseq: number | null;
  likes: number | null;
  users: number | null;
  connections: number | null;
  settings: RoomSettings | null;
  announcement: Message | null;
  /** The last messages of all kinds, and the last reliable ones: a message may be in both. */
  messages: Message[];
  reliable: Message[];
  tombstones: unknown[];
}

/** What a client does after a connection has ended. */
export interface CloseRule {
  code: number;
  reason: string;
  reconnect: boolean;
  afterS: number;
}

/** This user is muted, banned or kicked, or no longer so. `until_ms`: when that ends, in milliseconds of Unix time; -1: never. */
export interface Notice {
  t: "notice";
  room: string;
  kind: string;
  id: string;
  at: number;
  until_ms: number;
  why: string;
  by_role: string;
}

/**
 * A room refuses this user, or puts it out. `detail`: why, in words. `retry_after_s`: the SDK joins again by itself after so long;
 * null: nobody knows when. `until_ms`: when a ban ends, in milliseconds of Unix time; -1: never; 0: unknown, or no ban.
 */
export interface RefusedFrame {
  t: "error";
  code: string;
  detail: string;
  room: string;
  retry_after_s: number | null;
  until_ms: number;
  /** The id under which the service logged it, or "". */
  request_id: string;
}

/** A frame for this user alone; `t` is its type. */
export type Told = Notice | RefusedFrame | { t: "left"; room: string };

/** The events of rooms, in order. A `delivered` that is `late` fills a hole: sort it in by `seq`. */
export type Effect =
  | { type: "entered"; room: string; epoch: number | null; seq: number | null; rseq: number | null; card: Card | null; resumed: boolean }
  | { type: "card"; room: string; card: Card }
  | { type: "delivered"; room: string; epoch: number; message: Message; late: boolean }
  | { type: "counts"; room: string; likes: number | null; viewers: [users: number, connections: number] | null }
  | { type: "progress"; room: string; epoch: number; rseq: number; first: boolean }
  | { type: "hole" | "lost"; room: string; epoch: number; afterRseq: number; toRseq: number }
  | { type: "renumbered"; room: string; epoch: number }
  | { type: "told"; what: Told }
  | { type: "moved"; reason: string }
  /** No room is left, or the service ended the connection for good. `refusal`: that of the last room, where there was one. */
  | { type: "ended"; rule: CloseRule; refusal: RefusedFrame | null };

export interface Connection {
  /** "open" means that a room has let the viewer in; "idle" that there is no room to watch. */
  state: "idle" | "connecting" | "open" | "waiting" | "ended";
  gateway: string;
  transport: "websocket" | "events" | null;
  retryInS: number | null;
  /** While waiting: why the last attempt failed. The client tries again all the same. */
  failure: LiveRoomError | null;
  /** While waiting: `failure` where the scheduler refused, such as a busy service. */
  refused: Refused | null;
}

/** A token, or a function that gives a valid one whenever it is asked. One that gives none fails with `token_missing`. */
export type Token = string | (() => string | Promise<string>);

export interface LiveRoomOptions {
  scheduler: string | string[];
  rooms: Iterable<string>;
  /** Without it, or null, the viewer is a guest. */
  token?: Token | null;
  onEffect?: (effect: Effect) => void;
  onState?: (connection: Connection) => void;
  /** Send heartbeats as seldom as the network allows. */
  battery?: boolean;
  /** The id of the user's device: 1 to 64 of A-Z a-z 0-9 _ . : -; by default, or empty, `deviceId()`. The constructor throws RangeError for another. */
  device?: string;
  /** Tried in this order; both by default. */
  transports?: ("websocket" | "events")[];
}

/** Watches rooms. */
export class LiveRoom {
  constructor(options: LiveRoomOptions);
  /** Begins to watch; after the end it begins anew, with the rooms that are wished then. Does nothing while it watches. */
  start(): this;
  /** Joins one more room, through a new entry. May be called at any time, like `leave`; after the end it counts for the next `start`. */
  join(room: string): void;
  /** Leaves a room. Without any room there is no connection until the next `join`. */
  leave(room: string): void;
  /** Ends, until the next `start`. */
  end(): void;
}

/** The codes of failures that the SDK itself finds. Refusals of the services have the others, of docs/errors.md. */
export type OwnCode =
  | "network" | "timeout" | "aborted" | "bad_answer" | "http_error" | "bad_json" | "room_invalid"
  | "token_missing" | "token_invalid" | "token_failed";

/** Why a call failed. Every call of the SDK that fails rejects with one. */
export class LiveRoomError extends Error {
  /** Stable: an `OwnCode`, or a code of docs/errors.md. */
  readonly code: OwnCode | (string & {});
  /** The HTTP status; 0 where no answer came. */
  readonly status: number;
  /** What is wrong in this case, for people. */
  readonly detail: string;
  /** The room that it concerns, or "" where it names none. */
  readonly room: string;
  /** The delay that the answer's body or its `Retry-After` asks for, in seconds; 0 where neither does. */
  readonly retryAfterS: number;
  /** When a mute or ban ends, in milliseconds of Unix time; -1: never; 0: unknown, or it is neither. */
  readonly untilMs: number;
  /** The id under which the service logged the refusal, or "". */
  readonly requestId: string;
  /** What the browser or the token function threw, where it did. */
  readonly cause?: unknown;
}

/** An answer with an error status: a service refuses, or a proxy before it (`http_error`). */
export class Refused extends LiveRoomError {}

/** What the service accepted: every viewer of the room will get it. */
export interface Accepted {
  id: string;
  room: string;
  kind: string;
  /** In milliseconds of Unix time. */
  at_ms: number;
  /** The text as viewers see it, where words were masked or a review changed it; otherwise "". */
  text: string;
}

/** Sends interactions. Every attempt has the same id, so nothing happens twice. */
export class Sender {
  constructor(options: { ingress: string; token: Token; attempts?: number });
  /** Sends to a room. Rejects with `LiveRoomError`. */
  send<Path extends keyof Sendable>(room: string, path: Path, body: Sendable[Path]): Promise<Accepted>;
  /** Any other call of the ingress, such as a host's command: `path` begins with `/v1/`. Rejects with `LiveRoomError`. */
  call(method: string, path: string, body?: unknown): Promise<unknown>;
}

/** Requests a URL and returns the answer's JSON. Rejects with `LiveRoomError`. */
export function ask(url: string, options?: RequestInit & { timeoutS?: number }): Promise<unknown>;
/** This browser's device id, made at the first call and kept in `localStorage`; per page where that is refused. */
export function deviceId(): string;
export function newId(): string;
/** Returns the user id of an identity service's text (`sub`), as messages have it. Throws RangeError where it has none, TypeError for no text. */
export function userId(text: string): string;
/** Returns the identity service's text of a user id. Throws RangeError for what is not a user id, TypeError for no text. */
export function userText(id: string): string;
export function ruleFor(code: number | null): CloseRule;
