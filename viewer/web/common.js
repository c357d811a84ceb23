// Shared by the three pages: elements made of text only, the entry form, the demo's addresses and tokens, the connection's state.

import { keep, kept, t, why } from "./i18n.js";
import { foreign, isVisible, shown } from "./texts.js";
import { ask, LiveRoom, Sender, userText } from "./sdk/liveroom.js";

export const $ = (id) => document.getElementById(id);

/** Makes an element; children are elements or text, never markup. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Returns a link's address if it is safe to follow, else null. */
export function safeLink(text) {
  try {
    const url = new URL(text);
    return url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/**
 * Returns how people see a user: by name; without one by its text, or by the id where it stands for none. Control and format
 * characters, which are invisible or turn the text around them, are replaced; a name keeps the joiners that words and emoji need.
 */
export function shownUser(id, name = "") {
  if (isVisible(name)) return shown(name);
  try {
    return shown(userText(id), { joins: false });
  } catch {
    return id;
  }
}

/** Makes the element that shows a user. Its title is the user id: users who look alike differ there. */
export function userElement(id, name = "") {
  const made = foreign(shownUser(id, name), "b");
  made.className = "user";
  made.title = id;
  return made;
}

export const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString());

/** The person at this page: a name, a role, and tokens from the demo's identity service. Without a name it is a guest. */
export class Person {
  constructor(config, name, role = "viewer", room = "") {
    this.config = config;
    this.name = name;
    this.role = role;
    this.room = room;
    this.key = `user-${role}`;
    this.user = kept("sessionStorage", this.key) ?? "";
    this.signed = "";
    this.sinceMs = 0;
    this.untilMs = 0;
    this.sender = new Sender({ ingress: config.ingress, token: () => this.token() });
  }

  /** Makes the name known, and keeps it for the next load of the page; throws where that fails. */
  async introduce() {
    await this.token();
    keep("sessionStorage", "name", this.name);
  }

  /** Returns a token; nothing for a guest, who has none. */
  async token() {
    if (!this.name) return "";
    const nowMs = Date.now(); // wall-clock time, which goes on while a device sleeps, and may be set back
    if (this.sinceMs <= nowMs && nowMs < this.untilMs) return this.signed;
    const body = JSON.stringify({ name: this.name, user: this.user, role: this.role, room: this.room });
    const got = await ask("/demo/token", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    this.user = got.user;
    this.signed = got.token;
    this.sinceMs = Date.now();
    this.untilMs = this.sinceMs + (got.ttl_s * 1000) / 2;
    keep("sessionStorage", this.key, got.user);
    return this.signed;
  }
}

/** Shows the connection in the page's status line. */
function showConnection({ state, transport, gateway, refused }) {
  const key = state === "open" && transport === "events" ? "events" : state === "waiting" && !navigator.onLine ? "offline" : state;
  const status = $("status");
  status.dataset.state = state;
  status.dataset.t = `state.${key}`;
  status.textContent = refused ? `${t(`state.${key}`)}: ${why(refused)}` : t(`state.${key}`);
  status.title = gateway;
}

/** Shows what went wrong, or clears the line. */
export function refuse(error = null) {
  const line = $("refusal");
  line.textContent = error === null ? "" : t("refused", { why: why(error) });
  line.hidden = error === null;
}

export function config() {
  return ask("/demo/config");
}

/** Returns the demo's addresses; waits while its services start, and says so. */
async function configOnceReady() {
  for (;;) {
    try {
      const found = await config();
      $("ended").hidden = true;
      return found;
    } catch (error) {
      if (error.code !== "not_ready") throw error;
      if ($("ended").hidden) sayEnded(why({ code: error.code })); // once: it is read aloud
      await new Promise((resolve) => setTimeout(resolve, Math.max(1, error.retryAfterS) * 1000));
    }
  }
}

/**
 * Fills in the entry form and calls `enter(person, room)` when it is submitted; `atOnce`: also before, if a room is known. A
 * person without a name is a guest. `role()` returns the person's role.
 */
export async function entrance(enter, { role = () => "viewer", atOnce = false } = {}) {
  const asked = new URLSearchParams(location.search);
  const form = $("entry");
  $("name").value = kept("sessionStorage", "name") || asked.get("name") || "";
  $("room").value = asked.get("room") ?? "";
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    goIn($("name").value.trim());
  });
  const goIn = async (name) => {
    const room = $("room").value;
    const button = form.querySelector("button");
    refuse();
    $("ended").hidden = true;
    if (name && !isVisible(name)) {
      form.hidden = false;
      sayEnded(t("name.invisible"));
      return;
    }
    button.disabled = true; // until the request is done: a second click would enter twice
    try {
      const person = new Person(await config(), name, role(), room);
      await person.introduce();
      $("where").textContent = room;
      form.hidden = true;
      $("live").hidden = false;
      enter(person, room);
    } catch {
      form.hidden = false;
      sayEnded(t("entry.failed"));
    } finally {
      button.disabled = false;
    }
  };
  try {
    const { rooms } = await configOnceReady();
    $("rooms").replaceChildren(...rooms.map((name) => el("option", { value: name })));
    $("room").value ||= rooms[0] ?? "";
  } catch {
    sayEnded(t("entry.failed"));
  }
  if (!atOnce) return;
  if (form.checkValidity()) await goIn(kept("sessionStorage", "name") ?? "");
  else form.hidden = false;
}

/** Watches a room for a person. */
export function watch(person, room, onEffect) {
  const { scheduler } = person.config;
  const token = person.name ? () => person.token() : null; // a guest has none
  return new LiveRoom({ scheduler: scheduler.split(","), rooms: [room], token, onEffect, onState: showConnection }).start();
}

/** Returns to the entry form and shows the reason, if there is one: the text `key`, or a ban with its end and its reason. */
export function goOut(rule = null, key = `ended.${rule?.code}`, refused = null) {
  $("live").hidden = true;
  $("entry").hidden = false;
  if (rule === null) return;
  if (refused?.code === "banned") sayEnded(why(refused));
  else sayEnded(t(key) === key ? t("ended.other", { reason: rule.reason }) : t(key));
}

function sayEnded(text) {
  $("ended").textContent = text;
  $("ended").hidden = false;
}
