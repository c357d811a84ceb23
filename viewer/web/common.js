// Shared by the three pages: elements made of text only, the entry form, the demo's addresses and tokens, the connection's state.

import { keep, kept, t, why } from "./i18n.js";
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
  if (name) return name.replace(/(?![\u200c\u200d])\p{C}/gu, "\ufffd");
  try {
    return userText(id).replace(/\p{C}/gu, "\ufffd");
  } catch {
    return id;
  }
}

/** Makes the element that shows a user. Its title is the user id: users who look alike differ there. */
export function userElement(id, name = "") {
  return el("b", { class: "user", title: id }, shownUser(id, name));
}

export const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString());

/** The person at this page: a name, a role, and tokens from the demo's identity service. */
export class Person {
  constructor(config, name, role = "viewer", room = "") {
    this.config = config;
    this.name = name;
    this.role = role;
    this.room = room;
    this.key = `user-${role}`;
    this.user = kept("sessionStorage", this.key) ?? "";
    this.signed = "";
    this.untilMs = 0;
    this.sender = new Sender({ ingress: config.ingress, token: () => this.token() });
  }

  async token() {
    if (Date.now() < this.untilMs) return this.signed; // wall-clock time, which goes on while a device sleeps
    const body = JSON.stringify({ name: this.name, user: this.user, role: this.role, room: this.room });
    const got = await ask("/demo/token", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    this.user = got.user;
    this.signed = got.token;
    this.untilMs = Date.now() + (got.ttl_s * 1000) / 2;
    keep("sessionStorage", this.key, got.user);
    return this.signed;
  }
}

/** Shows the connection in the page's status line. */
export function showConnection({ state, transport, gateway, refused }) {
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

/** Fills in the entry form and calls `enter(person, room)` when it is submitted. `role()` returns the person's role. */
export async function entrance(enter, role = () => "viewer") {
  const asked = new URLSearchParams(location.search);
  $("name").value = kept("sessionStorage", "name") ?? asked.get("name") ?? "";
  $("room").value = asked.get("room") ?? "";
  $("entry").addEventListener("submit", async (event) => {
    event.preventDefault();
    refuse();
    $("ended").hidden = true;
    const room = $("room").value;
    const button = $("entry").querySelector("button");
    let person;
    button.disabled = true; // until the request is done: a second click would enter twice
    try {
      person = new Person(await config(), $("name").value.trim(), role(), room);
      await person.token();
    } catch {
      sayEnded(t("entry.failed"));
      return;
    } finally {
      button.disabled = false;
    }
    keep("sessionStorage", "name", person.name);
    $("where").textContent = room;
    $("entry").hidden = true;
    $("live").hidden = false;
    enter(person, room);
  });
  const { rooms } = await config().catch(() => ({ rooms: [] }));
  $("rooms").replaceChildren(...rooms.map((name) => el("option", { value: name })));
  if (!$("room").value && rooms.length) [$("room").value] = rooms;
}

/** Watches a room for a person. */
export function watch(person, room, onEffect) {
  const { scheduler } = person.config;
  const token = () => person.token();
  return new LiveRoom({ scheduler: scheduler.split(","), rooms: [room], token, onEffect, onState: showConnection }).start();
}

/** Returns to the entry form and shows the reason, if there is one. */
export function goOut(rule = null) {
  $("live").hidden = true;
  $("entry").hidden = false;
  if (rule === null) return;
  const key = `ended.${rule.code}`;
  sayEnded(t(key) === key ? t("ended.other", { reason: rule.reason }) : t(key));
}

function sayEnded(text) {
  $("ended").textContent = text;
  $("ended").hidden = false;
}
