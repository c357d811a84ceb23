// The chat list: thousands of lines a minute without a hitch. Lines wait for the next frame of the screen, so the
// page is laid out at most once a frame; of more than anybody could read in one, only the newest are shown and the rest are counted.

import { colourOf, countOf, textOf } from "./bodies.js";
import { el, shownUser, userElement } from "./common.js";
import { parts, t } from "./i18n.js";
import { foreign, isVisible } from "./texts.js";

const MOST_LINES = 1000;
const MOST_A_FRAME = 24;
const MOST_WAITING = 240;
const NEAR_END_PX = 60;
const WHITE = "#ffffff";
const SPOKEN = new Set(["danmaku", "announcement"]);
const GIFTS = new Set(["rose", "heart", "rocket", "castle"]); // the pages have names for them

export class Chat {
  /** `log` scrolls and holds an `ol`; `newest` is the button that jumps to its end; `actions(message)` returns a host's buttons. */
  constructor(log, newest, { me = "", actions = () => [] } = {}) {
    this.log = log;
    this.list = log.querySelector("ol");
    this.newest = newest;
    this.me = me;
    this.actions = actions;
    this.waiting = [];
    this.skipped = 0;
    this.frame = 0;
    this.follows = true;
    this.top = 0;
    this.history = 0;
    this.byUser = new Map();
    this.ofCard = new Set();
    log.addEventListener("scroll", () => this.#look(), { passive: true });
    newest.addEventListener("click", () => this.#toEnd());
    document.addEventListener("visibilitychange", () => document.hidden || this.#ask());
  }

  /** Adds a message at the end, or at its place if it is late. One of the room's snapshot may be delivered again. */
  add(message, { late = false, ofCard = false } = {}) {
    if (SPOKEN.has(message.kind) && !isVisible(textOf(message.data?.text))) return; // a line with nothing to see
    const key = `${message.user} ${message.id}`; // two users may choose the same id
    if (ofCard) this.ofCard.add(key);
    else if (this.ofCard.delete(key)) return;
    const entry = { message: this.dated(message) };
    if (late) this.#insert(entry);
    else this.#queue(entry);
  }

  /** Adds a line of the page itself: texts and elements. */
  note(...children) {
    this.#queue({ children });
  }

  /** Notes on a message to which of the room's histories it belongs, and returns it: `takes` compares that. */
  dated(message) {
    message.history = this.history;
    return message;
  }

  /** Removes what a message of the kind `clear` covers of what came before it. */
  clear(clear) {
    const isTaken = (entry) => entry.message && takes(this.dated(clear), entry.message);
    this.waiting = this.waiting.filter((entry) => !isTaken(entry));
    const who = clear.data.user || clear.data.sender;
    const lines = who ? [...(this.byUser.get(who) ?? [])] : [...this.list.children];
    for (const line of lines) if (isTaken(line)) this.#remove(line);
  }

  /** Begins another history: its numbers start over, and what is shown is older than all of it. */
  renumbered() {
    this.history += 1;
    this.ofCard.clear();
    this.note(t("chat.renumbered"));
  }

  /** Whether any line is shown or waiting. */
  get isAny() {
    return this.waiting.length > 0 || this.list.childElementCount > 0;
  }

  empty() {
    this.waiting = [];
    this.skipped = 0;
    this.follows = this.newest.hidden = true;
    this.byUser.clear();
    this.ofCard.clear();
    this.list.replaceChildren();
  }

  #queue(entry) {
    this.waiting.push(entry);
    if (this.waiting.length > MOST_WAITING) {
      this.skipped += this.waiting.length - MOST_A_FRAME;
      this.waiting.splice(0, this.waiting.length - MOST_A_FRAME);
    }
    this.#ask();
  }

  #ask() {
    if (!this.frame && !document.hidden && this.waiting.length) this.frame = requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    this.frame = 0;
    const lines = this.waiting.splice(0, MOST_A_FRAME).map((entry) => this.#line(entry));
    if (this.skipped && !this.waiting.length) {
      lines.unshift(el("li", { class: "note" }, t("chat.more", { n: this.skipped })));
      this.skipped = 0;
    }
    this.list.append(...lines);
    while (this.list.childElementCount > MOST_LINES) this.#remove(this.list.firstElementChild);
    if (this.follows) this.log.scrollTop = this.log.scrollHeight;
    this.#ask();
  }

  #line({ message, children }) {
    if (!message) return el("li", { class: "note" }, ...children);
    const { data, user, kind, n } = message;
    const line = el("li", { class: `${kind}${user === this.me ? " own" : ""}` });
    line.message = message;
    line.append(userElement(user, message.name), " ", el("span", { dir: "auto" }, ...saidParts(message)));
    if (n > 1) line.append(" ", el("span", { class: "times" }, `×${n}`));
    const colour = kind === "danmaku" ? colourOf(data.color) : null;
    if (colour !== null && colour !== WHITE) line.style.borderLeftColor = colour;
    const actions = this.actions(message);
    if (actions.length) line.append(el("span", { class: "actions" }, ...actions));
    if (!this.byUser.has(user)) this.byUser.set(user, new Set());
    this.byUser.get(user).add(line);
    return line;
  }

  #insert(entry) {
    let next = this.list.lastElementChild;
    while (next && !(next.message && isBefore(next.message, entry.message))) next = next.previousElementSibling;
    const line = this.#line(entry);
    if (next) next.after(line);
    else this.list.prepend(line);
  }

  #remove(line) {
    const lines = line.message && this.byUser.get(line.message.user);
    if (lines) {
      lines.delete(line);
      if (!lines.size) this.byUser.delete(line.message.user);
    }
    line.remove();
  }

  /** Follows the end until the person scrolls up; growth of lines during layout is not scrolling. */
  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.log;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) this.follows = true;
    else if (scrollTop < this.top) this.follows = false;
    this.top = scrollTop;
    this.newest.hidden = this.follows;
  }

  #toEnd() {
    this.follows = true;
    this.log.scrollTop = this.log.scrollHeight;
    this.log.focus();
  }
}

/** Returns a message as texts and elements: what others wrote turns nothing beside it. */
export function saidParts({ kind, data, name, user }) {
  switch (kind) {
    case "danmaku":
    case "announcement":
      return [foreign(textOf(data.text))];
    case "gift":
      return gift(data);
    case "enter":
      return parts("chat.entered", { name: shownUser(user, name) });
    case "leave":
      return parts("chat.left", { name: shownUser(user, name) });
    case "red_packet":
    case "coupon":
    case "goods":
      return [t(`card.${kind}`), ": ", foreign(textOf(data.title) || textOf(data.text))];
    default:
      return [foreign(kind)];
  }
}

/** Returns a message as text alone. */
export const said = (message) => el("span", {}, ...saidParts(message)).textContent;

export function giftName(gift) {
  const id = textOf(gift);
  return GIFTS.has(id) ? t(`gift.${id}`) : id;
}

/** Returns the gift of a message and how many of it, as text and elements. */
export const gift = (data) => [foreign(giftName(data.gift)), ` ×${countOf(data.count)}`];

function isBefore(message, other) {
  return message.history < other.history || (message.history === other.history && message.seq < other.seq);
}

/** Returns whether a `clear` takes a message away: one that came before it. Ids are unique for one user only. Both are `dated`. */
export function takes(clear, message) {
  const { id, sender, user } = clear.data;
  if (!isBefore(message, clear)) return false;
  if (user && message.user === user) return true;
  return Boolean(id) && message.id === id && (!sender || message.user === sender);
}
