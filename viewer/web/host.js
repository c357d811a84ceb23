// The page of streamers and moderators: incoming gifts, the chat with moderation buttons on each line, the room's rules.

import { countOf, textOf } from "./bodies.js";
import { Chat, gift, takes } from "./chat.js";
import { $, el, entrance, goOut, number, refuse, userElement, watch } from "./common.js";
import { switchable, t } from "./i18n.js";
import { newId } from "./sdk/liveroom.js";
import { foreign, shown } from "./texts.js";

const MUTE_S = 600;
const LOOK_MS = 5000;
const MOST_GIFTS = 200;
const CLOSED = 4004;
const MODES = ["muted_all", "followers_only", "subscribers_only", "no_media", "fold_identical", "guests", "restricted"];

const NO_MODES = { slow_s: 0, ...Object.fromEntries(MODES.map((name) => [name, name === "guests"])) };

let told = { ...NO_MODES }; // the room's modes as last reported
let person = null;
let live = null;
let room = "";
let chat = null;
let gifts = 0;
let heard = 0;
let looking = 0;

// ---- what happens in the room
function onEffect(effect) {
  switch (effect.type) {
    case "entered":
    case "card":
      if (effect.card) showCard(effect.card);
      break;
    case "delivered":
      heard += 1;
      show(effect.message, effect.late);
      break;
    case "counts":
      if (effect.likes !== null) $("likes").textContent = number(effect.likes);
      if (effect.viewers !== null) {
        $("viewers").textContent = number(effect.viewers[0]);
        $("connections").textContent = number(effect.viewers[1]);
      }
      break;
    case "lost":
      chat.note(t("chat.lost", { n: effect.toRseq - effect.afterRseq }));
      break;
    case "renumbered":
      chat.renumbered();
      break;
    case "ended":
      leave(effect.rule, effect.refusal);
      break;
  }
}

function showCard(card) {
  if (card.likes !== null) $("likes").textContent = number(card.likes);
  if (card.users !== null) $("viewers").textContent = number(card.users);
  if (card.settings !== null) showModes(card.settings);
}

function show(message, late) {
  switch (message.kind) {
    case "danmaku":
      chat.add(message, { late });
      break;
    case "gift":
      addGift(message);
      break;
    case "clear":
      chat.clear(message);
      for (const line of [...$("gifts").children]) if (takes(message, line.message)) line.remove();
      break;
    case "room":
      showModes(message.data);
      chat.note(t("modes.changed"));
      break;
    case "announcement":
      chat.add(message, { late });
      break;
  }
}

function addGift(message) {
  const { name, user, data } = chat.dated(message);
  gifts += countOf(data.count);
  $("giftcount").textContent = number(gifts);
  const line = el("li", {}, userElement(user, name), " ", ...gift(data));
  line.message = message;
  $("gifts").prepend(line);
  while ($("gifts").childElementCount > MOST_GIFTS) $("gifts").lastElementChild.remove();
}

/** Shows the given modes; the others stay as they are. */
function showModes(modes) {
  if (Number.isFinite(modes.slow_s)) $("slow_s").value = told.slow_s = modes.slow_s;
  for (const name of MODES) if (typeof modes[name] === "boolean") $(name).checked = told[name] = modes[name];
}

function leave(rule, refused) {
  live?.end();
  live = null;
  clearInterval(looking);
  goOut(rule, undefined, refused);
  if (rule.code === CLOSED && person.role === "streamer") {
    $("live").hidden = false; // everyone is removed, but the host can reopen the room from here
    $("entry").hidden = true;
  }
}

// ---- what a host does
/** Does a command. `older`: the body for an ingress that refuses `body` because it is of an earlier version. */
async function act(method, path, body, older) {
  if (method !== "GET") {
    refuse();
    $("done").textContent = "";
  }
  try {
    const id = newId(); // the same at every attempt, so it happens once
    const url = `/v1/rooms/${encodeURIComponent(room)}${path}`;
    const call = (sent) => person.sender.call(method, url, sent && { id, ...sent });
    const answer = await call(body).catch((error) => {
      if (!older || error.status !== 422) throw error;
      return call(older);
    });
    if (method !== "GET") $("done").textContent = t("host.done");
    return answer;
  } catch (error) {
    refuse(error);
    return null;
  }
}

function actions({ user, id, kind, role = "viewer" }) {
  if (kind !== "danmaku" || user === person.user) return [];
  // Version 0.1 takes no user there, and removes every message with the id: for viewers' messages only.
  const older = ["viewer", "guest"].includes(role) ? { message: id } : undefined;
  const button = (key, done) => el("button", { type: "button", onclick: done }, t(key));
  return [
    button("host.delete", () => act("POST", "/clears", { user, message: id }, older)),
    button("host.mute", () => then(act("POST", "/mutes", { user, for_s: MUTE_S }))),
    button("host.kick", () => act("POST", "/kicks", { user })),
    button("host.ban", () => then(act("POST", "/bans", { user }))),
  ];
}

async function then(done) {
  await done;
  await look();
}

/** Loads the muted and banned users and the blocked words. */
async function look() {
  const asked = room;
  const [mutes, bans, words] = await Promise.all([act("GET", "/mutes"), act("GET", "/bans"), act("GET", "/words")]);
  if (asked !== room || !mutes || !bans || !words) return;
  const lift = (path) => el("button", { type: "button", onclick: () => then(act("DELETE", path)) }, t("host.lift"));
  const held = (list, key, path) =>
    list.users.map(({ user, why }) =>
      el("li", {}, userElement(user), ` ${t(key)} `, foreign(textOf(why)), " ", lift(`/${path}/${encodeURIComponent(user)}`)),
    );
  const people = [...held(mutes, "host.muted", "mutes"), ...held(bans, "host.banned", "bans")];
  $("people").replaceChildren(...(people.length ? people : [el("li", { class: "note" }, t("host.none"))]));
  const lines = Object.entries(words.words).map(([word, action]) =>
    el("li", {}, foreign(shown(word), "b"), ` ${t(`host.${action}`)} `, lift(`/words/${encodeURIComponent(word)}`)),
  );
  $("wordlist").replaceChildren(...(lines.length ? lines : [el("li", { class: "note" }, t("host.none"))]));
}

async function enter(somebody, where) {
  live?.end();
  clearInterval(looking);
  showModes(NO_MODES);
  gifts = heard = 0;
  $("gifts").replaceChildren();
  person = somebody;
  room = where;
  chat ??= new Chat($("log"), $("newest"), { actions });
  chat.empty();
  chat.me = person.user;
  for (const id of ["dissolve", "reopen"]) $(id).hidden = person.role !== "streamer";
  begin();
  await look();
}

function begin() {
  live = watch(person, room, onEffect);
  looking = setInterval(() => {
    $("rate").textContent = number(Math.round((heard * 1000) / LOOK_MS));
    heard = 0;
  }, LOOK_MS);
}

async function reopen() {
  if ((await act("POST", "/reopen", {})) === null || live) return;
  $("ended").hidden = true;
  begin();
}

/** Saves only what differs from the last report: another host may have changed the rest. */
function saveModes(event) {
  event.preventDefault();
  const wanted = { slow_s: Number($("slow_s").value) || 0 };
  for (const name of MODES) wanted[name] = $(name).checked;
  const changed = Object.entries(wanted).filter(([name, value]) => told[name] !== value);
  if (changed.length) act("PATCH", "/modes", Object.fromEntries(changed));
}

function setWord(event) {
  event.preventDefault();
  const word = $("word").value.trim();
  if (!word) return;
  $("word").value = "";
  then(act("PUT", `/words/${encodeURIComponent(word)}`, { action: $("action").value }));
}

function announce(event) {
  event.preventDefault();
  act("POST", "/announcements", { text: $("announcement").value.trim() });
}

switchable($("language"), () => live && look());
entrance(enter, { role: () => $("role").value });
$("modes").addEventListener("submit", saveModes);
$("words").addEventListener("submit", setWord);
$("announce").addEventListener("submit", announce);
$("dissolve").addEventListener("click", () => confirm(t("host.sure")) && act("POST", "/dissolve", {}));
$("reopen").addEventListener("click", reopen);
