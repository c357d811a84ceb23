// What moves over the stage: danmaku (drawn by the danmaku library on a canvas), gift banners, hearts.

import { colourOf, countOf, numberOf, textOf } from "./bodies.js";
import { giftName, takes } from "./chat.js";
import { el, shownUser } from "./common.js";
import { parts } from "./i18n.js";
import { isolated, isVisible } from "./texts.js";
import Danmaku from "./vendor/danmaku.js";

const USUAL_SIZE = 25; // of the system's danmaku, in its pixels
const SCALE = 0.88; // the stage is smaller than a screen
const LANE_PX = 34;
const LANE_S = 1.4; // before a lane takes the next one: more would be unreadable
const MOST_FLOWN = 200;
const BANNERS = 3;
const MOST_BANNERS_WAITING = 30;
const MOST_OF_BANNER = 100; // gifts that can be taken away one by one
const BANNER_MS = 4000;
const HEARTS = 12;
const MODES = new Map([["scroll", "rtl"], ["reverse", "ltr"], ["top", "top"], ["bottom", "bottom"]]);

export class Stage {
  constructor(place) {
    this.place = place;
    this.danmaku = new Danmaku({ container: place, engine: "canvas", speed: 120 });
    this.mostPerS = 10;
    this.left = 10;
    this.refilledAt = performance.now();
    this.isShown = true;
    new ResizeObserver(() => {
      this.danmaku.resize();
      this.mostPerS = Math.max(2, place.clientHeight / LANE_PX / LANE_S);
    }).observe(place);
  }

  /** Shows a message unless too many are moving; the viewer's own always. */
  fly({ data, n }, { own = false } = {}) {
    const text = textOf(data.text);
    if (!isVisible(text)) return;
    const now = performance.now();
    this.left = Math.min(this.mostPerS, this.left + ((now - this.refilledAt) / 1000) * this.mostPerS);
    this.refilledAt = now;
    if (!this.isShown || document.hidden || (this.left < 1 && !own)) return;
    this.left = Math.max(0, this.left - 1);
    this.#trim();
    const size = Math.round(numberOf(data.size, 16, 41, USUAL_SIZE) * SCALE);
    this.danmaku.emit({
      text: n > 1 ? `${isolated(text)} ×${n}` : isolated(text),
      mode: MODES.get(data.mode) ?? "rtl",
      style: {
        font: `600 ${size}px system-ui, "Noto Sans CJK SC", sans-serif`,
        fillStyle: colourOf(data.color) ?? "#fff",
        strokeStyle: own ? "#e0457b" : "#0009",
        lineWidth: own ? 3 : 2,
        textBaseline: "bottom",
      },
    });
  }

  /** Removes everything: cleared messages must not stay on screen. */
  clear() {
    this.danmaku.clear();
    this.danmaku.comments.length = 0;
    this.danmaku._.position = 0;
  }

  /** Drops finished danmaku: the library keeps every one it was ever given. */
  #trim() {
    const { comments, _: inner } = this.danmaku;
    if (inner.position < MOST_FLOWN) return;
    comments.splice(0, inner.position);
    inner.position = 0;
  }

  show(isShown) {
    this.isShown = isShown;
    if (isShown) this.danmaku.show();
    else this.danmaku.hide();
  }
}

/** Makes the two oldest gifts of a banner one, which only goes with all of its user. */
function join(gifts) {
  const [first, second] = gifts;
  gifts.splice(0, 2, { ...second, id: "", count: first.count + second.count, combo: Math.max(first.combo, second.combo) });
}

/** Gift banners: a few at once; repeated gifts of one person add up. */
export class Banners {
  constructor(place) {
    this.place = place;
    this.shown = new Map();
    this.waiting = [];
  }

  add(message) {
    const { data, user, name } = message;
    const gift = textOf(data.gift);
    const key = `${user} ${gift}`;
    const { id, seq, history } = message;
    const given = { id, user, seq, history, count: countOf(data.count), combo: countOf(data.combo) };
    const there = this.shown.get(key) ?? this.waiting.find((banner) => banner.key === key);
    if (there) {
      there.gifts.push(given);
      if (there.gifts.length > MOST_OF_BANNER) join(there.gifts);
      if (there.node) this.#draw(there);
      return;
    }
    this.waiting.push({ key, user, name: shownUser(user, name), gift, gifts: [given], node: null, timer: 0 });
    if (this.waiting.length > MOST_BANNERS_WAITING) this.waiting.shift(); // the chat shows it all the same
    this.#next();
  }

  /** Takes away the gifts that a message of the kind `clear` covers; a banner goes with its last one. */
  clear(clear) {
    for (const banner of [...this.waiting, ...this.shown.values()]) {
      const left = banner.gifts.filter((each) => !takes(clear, each));
      if (left.length === banner.gifts.length) continue;
      banner.gifts = left;
      if (banner.node && left.length) this.#draw(banner);
    }
    this.waiting = this.waiting.filter(({ gifts }) => gifts.length > 0);
    for (const banner of [...this.shown.values()]) if (!banner.gifts.length) this.#end(banner);
  }

  empty() {
    this.waiting = [];
    for (const banner of [...this.shown.values()]) this.#end(banner);
  }

  #next() {
    while (this.shown.size < BANNERS && this.waiting.length) {
      const banner = this.waiting.shift();
      banner.node = el("li");
      this.shown.set(banner.key, banner);
      this.place.append(banner.node);
      this.#draw(banner);
    }
  }

  #draw(banner) {
    const times = el("strong", {}, `×${banner.gifts.reduce((sum, { count }) => sum + count, 0)}`);
    const most = Math.max(...banner.gifts.map(({ combo }) => combo));
    const combo = most > 1 ? [" ", el("em", {}, `combo ${most}`)] : [];
    banner.node.replaceChildren(...parts("gift.gives", { name: banner.name, gift: giftName(banner.gift) }), " ", times, ...combo);
    clearTimeout(banner.timer);
    banner.timer = setTimeout(() => this.#end(banner), BANNER_MS);
  }

  #end(banner) {
    clearTimeout(banner.timer);
    banner.node.remove();
    this.shown.delete(banner.key);
    this.#next();
  }
}

/** Hearts that rise for new likes: a few at once, none if the person prefers reduced motion. */
export function hearts(place, count) {
  if (document.hidden || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (let left = Math.min(count, HEARTS - place.childElementCount); left > 0; left -= 1) {
    const heart = el("span", { "aria-hidden": "true" }, "♥");
    heart.style.left = `${Math.random() * 80}%`;
    heart.style.animationDelay = `${Math.random() * 400}ms`;
    heart.addEventListener("animationend", () => heart.remove());
    place.append(heart);
  }
}
