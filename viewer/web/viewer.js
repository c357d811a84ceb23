// The viewer's page: a room with its stage, chat, gifts and likes; sending, and the reason when sending fails. It enters the
// room as a guest at once; a guest that wants to speak is asked for a name.

import { textOf } from "./bodies.js";
import { Chat, saidParts, takes } from "./chat.js";
import { $, el, entrance, goOut, number, Person, refuse, safeLink, watch } from "./common.js";
import { ends, parts, switchable, t } from "./i18n.js";
import { priceText } from "./money.js";
import { Banners, hearts, Stage } from "./stage.js";
import { foreign, isVisible } from "./texts.js";

const LIKE_WINDOW_MS = 300;
const COMBO_MS = 3000;
const MOST_CARDS = 2;
const CARD_MS = 60_000;
const NOTICES = new Map(["mute", "unmute", "ban", "unban", "kick"].map((kind) => [kind, `notice.${kind}`]));
const SHOWN = new Set(["danmaku", "gift", "announcement", "red_packet", "coupon", "goods"]); // kinds shown from the snapshot

let person = null;
let live = null;
let room = "";
let chat = null;
let stage = null;
let banners = null;
let likes = null;
let announced = null; // the message that the announcement stands in
let introducing = null; // while a guest becomes somebody: one click more must not do it twice
let taps = 0;
let combo = { gift: "", count: 0, untilMs: 0 };

// ---- what happens in the room
function onEffect(effect) {
  if (effect.room !== undefined && effect.room !== room) return;
  switch (effect.type) {
    case "entered":
      if (effect.card) showCard(effect.card, effect.resumed);
      break;
    case "card":
      showCard(effect.card, false);
      break;
    case "delivered":
      show(effect.message, effect.late);
      break;
    case "counts":
      if (effect.likes !== null) showLikes(effect.likes);
      if (effect.viewers !== null) $("viewers").textContent = number(effect.viewers[0]);
      break;
    case "lost":
      chat.note(t("chat.lost", { n: effect.toRseq - effect.afterRseq }));
      break;
    case "renumbered":
      chat.renumbered();
      break;
    case "told":
      tell(effect.what);
      break;
    case "ended":
      leave(effect.rule, effect.refusal);
      break;
  }
}

/** Shows the snapshot of an entered room; after a reconnect only its totals are new. */
function showCard(card, isBack) {
  if (card.likes !== null) showLikes(card.likes, true);
  if (card.users !== null) $("viewers").textContent = number(card.users);
  announce(card.announcement);
  if (isBack || chat.isAny) return;
  const seen = new Map([...card.reliable, ...card.messages].map((message) => [message.seq, message]));
  for (const seq of [...seen.keys()].sort((a, b) => a - b)) {
    const message = seen.get(seq);
    if (SHOWN.has(message.kind)) chat.add(message, { ofCard: true });
  }
}

function show(message, late) {
  const { kind, data } = message;
  switch (kind) {
    case "danmaku":
      chat.add(message, { late });
      if (!late) stage.fly(message, { own: message.user === person.user });
      break;
    case "gift":
      chat.add(message, { late });
      banners.add(message);
      break;
    case "announcement":
      announce(message);
      chat.add(message, { late });
      break;
    case "clear":
      chat.clear(message);
      stage.clear();
      banners.clear(message);
      for (const card of [...$("cards").children]) if (takes(message, card.message)) card.remove();
      if (announced && takes(message, announced)) announce(null);
      break;
    case "room":
      chat.note(t("modes.changed"));
      break;
    case "red_packet":
    case "coupon":
    case "goods":
      chat.add(message, { late });
      offer(message);
      break;
    case "enter":
    case "leave":
      chat.note(...saidParts(message));
      break;
  }
}

function announce(message) {
  announced = message && chat.dated(message);
  const text = textOf(message?.data?.text);
  const data = message?.data;
  const place = $("announcement").querySelector("span");
  const link = data && safeLink(data.link);
  place.replaceChildren(link ? el("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, foreign(text)) : foreign(text));
  $("announcement").hidden = !isVisible(text);
}

function showLikes(total, isQuiet = false) {
  if (!isQuiet && likes !== null && total > likes) hearts($("hearts"), total - likes);
  likes = total;
  $("likes").textContent = number(total);
}

/** A red packet, coupon or goods card; it goes when closed or after a minute. */
function offer(message) {
  const { kind, data } = message;
  const close = el("button", { type: "button", onclick: () => card.remove() }, t("card.close"));
  const link = safeLink(data.link);
  const more = link ? [el("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, t("card.open"))] : [];
  const text = priceText(data.price, textOf(data.currency));
  const price = text ? [el("span", { class: "price" }, foreign(text))] : [];
  const about = [data.title, data.text].map(textOf).find(isVisible) ?? "";
  const card = el("article", { class: `card ${kind}` }, el("h2", {}, t(`card.${kind}`)), el("p", {}, foreign(about)), ...price, ...more, close);
  card.message = message;
  $("cards").append(card);
  while ($("cards").childElementCount > MOST_CARDS) $("cards").firstElementChild.remove();
  setTimeout(() => card.remove(), CARD_MS);
}

function tell(what) {
  if (what.t === "left") return;
  const line = $("told");
  if (what.t === "notice") {
    if (!NOTICES.has(what.kind)) return; // a later version's
    const said = () => [t(NOTICES.get(what.kind)), ...ends(what.until_ms).map((text) => ` ${text}`), ...reason()];
    const reason = () => (isVisible(what.why) ? [" ", ...parts("notice.why", { why: what.why })] : []);
    line.replaceChildren(...said());
    line.hidden = what.kind === "unmute" || what.kind === "unban";
    chat.note(...said());
  } else {
    refuse(what);
  }
}

// ---- what the person does
function enter(somebody, where) {
  live?.end();
  person = somebody;
  room = where;
  stage ??= new Stage($("stage"));
  banners ??= new Banners($("banners"));
  chat ??= new Chat($("log"), $("newest"));
  chat.empty();
  chat.me = person.user;
  likes = null;
  for (const id of ["viewers", "likes"]) $(id).textContent = "–";
  announce(null);
  stage.clear();
  banners.empty();
  $("cards").replaceChildren();
  $("told").hidden = true;
  placeName($("say"), person.name !== "");
  history.replaceState(null, "", `?room=${encodeURIComponent(room)}`); // where one comes back to after a reload
  live = watch(person, room, onEffect);
}

/** Puts the field of the name into a form. */
function placeName(form, isHidden = false) {
  const label = $("name").closest("label");
  form.prepend(label);
  label.hidden = isHidden;
}

/** Makes a guest somebody with the name that stands in its field, or asks for one. Returns whether the person has a name. */
function introduced() {
  introducing ??= introduce().finally(() => (introducing = null));
  return introducing;
}

async function introduce() {
  if (person.name) return true;
  if (live === null) return false; // the room was left since the click
  const entered = live;
  const somebody = new Person(person.config, $("name").value.trim());
  if (!isVisible(somebody.name)) {
    $("told").textContent = t("name.first");
    $("told").hidden = false;
    $("name").focus();
    return false;
  }
  try {
    await somebody.introduce();
  } catch (error) {
    if (live === entered) refuse(error);
    return false;
  }
  if (live !== entered) return false; // the person left meanwhile, or was removed
  enter(somebody, room);
  $("text").focus();
  return true;
}

/** Leaves the room. `rule`: why, if it was not the person's own wish; `refused`: the refusal of the room or of the scheduler. */
function leave(rule = null, refused = null) {
  live?.end();
  live = null;
  $("told").hidden = true;
  const code = refused?.code;
  const isForName = code === "token_missing" || (code === "forbidden" && !person.name);
  goOut(rule, isForName ? "ended.guests" : code === "forbidden" ? "ended.forbidden" : undefined, refused);
  placeName($("entry"));
  $("name").focus();
}

async function send(path, body) {
  refuse();
  if (!(await introduced())) return false;
  try {
    await person.sender.send(room, path, body);
    return true;
  } catch (error) {
    refuse(error);
    return false;
  }
}

async function say(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!isVisible(text)) {
    await introduced();
    return;
  }
  $("text").value = "";
  const body = { text, color: Number.parseInt($("color").value.slice(1), 16), mode: $("mode").value };
  if (!(await send("danmaku", body)) && !$("text").value) $("text").value = text; // the text comes back, to be edited or sent again
}

function like() {
  taps += 1;
  if (taps > 1) return;
  setTimeout(() => {
    const count = Math.min(taps, 1000);
    taps = 0;
    send("likes", { count });
  }, LIKE_WINDOW_MS);
}

function give() {
  const gift = $("gift").value;
  const now = performance.now();
  const goesOn = combo.gift === gift && now < combo.untilMs;
  combo = { gift, count: goesOn ? combo.count + 1 : 1, untilMs: now + COMBO_MS };
  send("gifts", { gift, count: 1, combo: combo.count });
}

switchable($("language"));
entrance(enter, { atOnce: true });
$("say").addEventListener("submit", say);
$("like").addEventListener("click", like);
$("give").addEventListener("click", give);
$("leave").addEventListener("click", () => leave());
$("flying").addEventListener("change", () => stage.show($("flying").checked));
