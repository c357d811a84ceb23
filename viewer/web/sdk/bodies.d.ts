// Made from liveroom/bodies.py and liveroom/records/snapshot.py by docs/generate.py.

/** A line of text over the video. */
export interface Danmaku {
  text: string;
  /** RGB as one integer. */
  color: number;
  /** How it moves. */
  mode: "scroll" | "top" | "bottom" | "reverse";
  /** Font size in pixels. */
  size: number;
  /** Id of the message that it answers. */
  reply: string;
  /** Ids of the users that it mentions. */
  mention: string[];
}

/** A paid gift. */
export interface Gift {
  /** Which gift. */
  gift: string;
  count: number;
  /** The sender's running count of this gift. */
  combo: number;
  /** Whom it is for, a user id or any other text. */
  to: string;
}

/** Likes. A client may send the sum of several taps. */
export interface Like {
  count: number;
}

/** A red packet whose money viewers can grab. The service that issued `packet` decides who gets how much. */
export interface RedPacket {
  packet: string;
  text: string;
  /** Number of shares. */
  count: number;
  /** When it opens. */
  opens_ms: number;
}

/** A coupon that viewers can take. The service that issued `coupon` decides who gets one. */
export interface Coupon {
  coupon: string;
  text: string;
  /** Number of coupons. */
  count: number;
  /** Until when it can be taken. */
  ends_ms: number;
}

/** Something for sale, shown as a card. */
export interface Goods {
  goods: string;
  title: string;
  /** In the smallest unit of `currency`, whose digits ISO 4217 names: 1200 is 12.00 USD, 1200 JPY or 1.200 KWD. */
  price: number;
  currency: string;
  /** Https URLs. */
  image: string;
  /** Https URLs. */
  link: string;
}

/** A text above the chat, shown until the next one; an empty text removes it. */
export interface Announcement {
  text: string;
  link: string;
}

/** A notable viewer arrives or leaves; `badge` says how the viewer is shown. */
export interface Visit {
  badge: string;
  text: string;
}

/**
 * Anything that an application defines: stickers, votes, effects. liveroom never interprets `body`, which is any JSON
 * of up to 2 KiB.
 */
export interface Custom {
  type: string;
  body: unknown;
}

/** Removes one message, or all messages of a user so far. */
export interface Clear {
  /** The message, in a package with its `#index`. */
  id: string;
  /** The user whose messages are all removed. */
  user: string;
  /**
   * Messages that the user sent before this time are removed too if they arrive later. The `clear` of a ban sets it
   * beyond the ban's own time, until the ban is known everywhere.
   */
  before_ms: number;
  /**
   * The user whose message it is, since two users may choose the same id. Empty in the clears of version 0.1: they
   * remove every message with that id.
   */
  sender: string;
}

/** A room's modes, as its room snapshot shows them. */
export interface RoomSettings {
  /** Seconds between two messages of one user. */
  slow_s: number;
  /** Only hosts and the users in `allow` may speak. */
  muted_all: boolean;
  allow: string[];
  /** Only followers or subscribers may speak. */
  followers_only: boolean;
  /** Only followers or subscribers may speak. */
  subscribers_only: boolean;
  /** Only text is accepted. */
  no_media: boolean;
  /** Identical danmaku become one with a count. */
  fold_identical: boolean;
  /** Danmaku per second, beyond which they are thinned; 0 means the system's limit. */
  limit_per_s: number;
  /** For the application, which leaves the room out of its lists; liveroom has no lists of rooms. */
  hidden: boolean;
  /** Nobody may join or send. */
  dissolved: boolean;
  /** Guests may join; if not, they are refused, and those inside are put out. */
  guests: boolean;
  /** Viewers and guests need a token that names the room in its `rooms`. */
  restricted: boolean;
}

/** Modes of a room that change; absent ones stay as they are. */
export type RoomChange = Partial<RoomSettings>;

/** The body of each kind of message. */
export interface Bodies {
  danmaku: Danmaku;
  gift: Gift;
  red_packet: RedPacket;
  coupon: Coupon;
  goods: Goods;
  announcement: Announcement;
  enter: Visit;
  leave: Visit;
  custom: Custom;
  clear: Clear;
  room: RoomChange;
  dissolve: Record<string, unknown>;
  reopen: Record<string, unknown>;
}

/** A body as one sends it: what has a default may be left out. */
export type Draft<Body, Needed extends keyof Body> = Pick<Body, Needed> & Partial<Omit<Body, Needed>>;

/** The id of an interaction: the same id again is the same one. The SDK makes one where it is absent. */
export interface Identified {
  id?: string;
}

/** What a `Sender` sends, by its path below `/v1/rooms/{room}/`. */
export interface Sendable {
  danmaku: Draft<Danmaku, "text"> & Identified;
  gifts: Draft<Gift, "gift"> & Identified;
  likes: Draft<Like, never> & Identified;
  "red-packets": Draft<RedPacket, "packet"> & Identified;
  coupons: Draft<Coupon, "coupon"> & Identified;
  goods: Draft<Goods, "goods" | "title"> & Identified;
  announcements: Draft<Announcement, "text"> & Identified;
  enters: Draft<Visit, never> & Identified;
  leaves: Draft<Visit, never> & Identified;
  custom: Draft<Custom, "type"> & Identified;
  packages: { package: string; items: Item[] } & Identified;
}

/** One interaction of a package. */
export type Item =
  | { kind: "danmaku"; data: Draft<Danmaku, "text"> }
  | { kind: "gift"; data: Draft<Gift, "gift"> }
  | { kind: "like"; data: Draft<Like, never> }
  | { kind: "red_packet"; data: Draft<RedPacket, "packet"> }
  | { kind: "coupon"; data: Draft<Coupon, "coupon"> }
  | { kind: "goods"; data: Draft<Goods, "goods" | "title"> }
  | { kind: "announcement"; data: Draft<Announcement, "text"> }
  | { kind: "enter"; data: Draft<Visit, never> }
  | { kind: "leave"; data: Draft<Visit, never> }
  | { kind: "custom"; data: Draft<Custom, "type"> };
