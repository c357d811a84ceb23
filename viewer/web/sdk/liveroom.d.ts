/** Types of the SDK, an ES module without dependencies. */

/** A message's kind. A later version may have more of them, so handle the kinds that you know and pass over the others. */
export type Kind =
  | "danmaku" | "gift" | "red_packet" | "coupon" | "goods" | "announcement" | "enter" | "leave" | "custom"
  | "room" | "clear" | "dissolve" | "reopen" | (string & {});

/** One message of a room. `rseq` is above 0 for reliable kinds; `n` is the number of identical messages it stands for. */
export interface Message {
  seq: number;
  rseq: number;
  kind: Kind;
  id: string;
  /** A user id. `userText` returns the text that the identity service knows. */
  user: string;
  name: string;
  role: string;
  level: number;
  at: number;
  n: number;
  package?: string;
  data: Record<string, unknown>;
}

/** The snapshot of a room that a viewer gets on entering. */
export interface Card {
  epoch?: number | null;
  seq?: number | null;
  rseq?: number | null;
  likes?: number | null;
  users?: number | null;
  connections?: number | null;
  settings?: Record<string, unknown> | null;
  announcement?: Message | null;
  messages?: Message[];
  reliable?: Message[];
  tombstones?: unknown[];
}

/** What a client does after a connection has ended. */
export interface CloseRule {
  code: number;
  reason: string;
  reconnect: boolean;
  afterS: number;
}

/** A frame for this user alone; `t` is its type. */
export type Told =
  | { t: "notice"; room: string; kind: string; id: string; at: number; until_ms?: number; why?: string; by_role?: string }
  | { t: "error"; code: string; detail?: string; room?: string; retry_after_s?: number | null; until_ms?: number }
  | { t: "left"; room: string };

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
  | { type: "ended"; rule: CloseRule };

export interface Connection {
  /** "open" means that a room has let the viewer in; "idle" that there is no room to watch. */
  state: "idle" | "connecting" | "open" | "waiting" | "ended";
  gateway: string;
  transport: "websocket" | "events" | null;
  retryInS: number | null;
  /** While waiting: the scheduler's last refusal, such as a busy service. The client retries all the same. */
  refused: Refused | null;
}

export type Token = string | null | (() => string | null | Promise<string | null>);

export interface LiveRoomOptions {
  scheduler: string | string[];
  rooms: Iterable<string>;
  token?: Token;
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
  start(): this;
  /** Joins one more room, through a new entry. May be called at any time, like `leave`; it does nothing after the end. */
  join(room: string): void;
  /** Leaves a room. Without any room there is no connection until the next `join`. */
  leave(room: string): void;
  end(): void;
}

/** A refusal of an HTTP request: `code` is stable (docs/errors.md). */
export class Refused extends Error {
  status: number;
  code: string;
  detail: string;
  /** The room that it concerns, or "" where it names none. */
  room: string;
  /** The delay that the answer's body or its `Retry-After` asks for, in seconds; 0 where neither does. */
  retryAfterS: number;
}

/** Sends interactions. Every attempt has the same id. Throws `Refused`, or an Error where no service answers. */
export class Sender {
  constructor(options: { ingress: string; token: Token; attempts?: number });
  send(room: string, path: string, body: Record<string, unknown>): Promise<{ id: string; at_ms: number }>;
  call(method: string, path: string, body?: unknown): Promise<unknown>;
}

export function ask(url: string, options?: RequestInit & { timeoutS?: number }): Promise<unknown>;
/** This browser's device id, made at the first call and kept in `localStorage`; per page where that is refused. */
export function deviceId(): string;
export function newId(): string;
/** Returns the user id of an identity service's text (`sub`), as messages have it. Throws RangeError where it has none, TypeError for no text. */
export function userId(text: string): string;
/** Returns the identity service's text of a user id. Throws RangeError for what is not a user id, TypeError for no text. */
export function userText(id: string): string;
export function ruleFor(code: number | null): CloseRule;
