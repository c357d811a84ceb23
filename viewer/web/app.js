// The demo's page: enter a room, watch, send. Everything that came from others is shown as text, never as markup.
// Protocol: docs/protocol.md. What a close code means comes with /demo/config from liveroom/closecodes.py.

const $ = (id) => document.getElementById(id);
const MAX_LINES = 300;
const LIKE_WINDOW_MS = 300;
const ATTEMPTS = 4;
const MAX_DELAY_S = 20;

let config = null; // of the demo: addresses, rooms, close codes
let me = null; // {user, name, token}
let room = null; // {id, epoch, seq, rseq}
let socket = null;
let failures = 0;
let retryTimer = 0;
let silenceTimer = 0;
let beatTimer = 0;
let silenceS = 25;
let taps = 0;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

// ---- what is seen
function setStatus(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

function addLine(name, text, kind, own) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const line = document.createElement("li");
  line.className = kind + (own ? " own" : "");
  if (name) {
    const who = document.createElement("b");
    who.textContent = name;
    line.append(who);
  }
  line.append(document.createTextNode(text));
  log.append(line);
  while (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
  return line;
}

const note = (text) => addLine("", text, "note", false);

function refuse(text) {
  $("refusal").textContent = text;
  $("refusal").hidden = !text;
}

function showAnnouncement(data) {
  const text = data && typeof data.text === "string" ? data.text : "";
  $("announcement").textContent = text;
  $("announcement").hidden = !text;
}

function showMessage(message) {
  const data = message.data ?? {};
  const name = message.name || message.user;
  const own = message.user === me.user;
  switch (message.kind) {
    case "danmaku": {
      const times = message.n > 1 ? ` ×${message.n}` : "";
      const line = addLine(name, String(data.text) + times, "danmaku", own);
      if (Number.isInteger(data.color)) line.style.borderLeftColor = "#" + data.color.toString(16).padStart(6, "0");
      break;
    }
    case "gift": {
      const combo = data.combo > 1 ? `, combo ${data.combo}` : "";
      addLine(name, `gives ${data.count ?? 1} ${data.gift}${combo}`, "gift", own);
      break;
    }
    case "announcement":
      showAnnouncement(data);
      note(`announcement: ${data.text}`);
      break;
    default:
      note(`${message.kind} by ${name}`);
  }
}

// ---- what comes from the gateway
function take(messages) {
  // in order, each once
  messages.sort((a, b) => a.seq - b.seq);
  for (const message of messages) {
    if (room.seq !== null && message.seq <= room.seq) continue;
    room.seq = message.seq;
    if (message.rseq) {
      if (room.rseq !== null && message.rseq > room.rseq + 1) note(`${message.rseq - room.rseq - 1} gifts or notices were missed`);
      room.rseq = message.rseq;
    }
    showMessage(message);
  }
}

function onBatch(head, lines) {
  if (room.epoch !== null && head.epoch !== room.epoch) {
    room.seq = room.rseq = null;
    note("the room's history begins anew");
  }
  room.epoch = head.epoch;
  room.seq ??= head.seq[0] - 1;
  take(lines.map((line) => JSON.parse(line)));
  if (head.seq[1] >= head.seq[0]) room.seq = Math.max(room.seq, head.seq[1]);
  room.rseq ??= head.rseq;
  if (head.likes !== undefined) $("likes").textContent = head.likes;
  if (head.viewers) $("viewers").textContent = head.viewers[0];
}

function onJoined(frame) {
  const known = room.seq !== null && frame.epoch === room.epoch;
  if (!known && frame.seq !== undefined && frame.seq !== null) {
    Object.assign(room, { epoch: frame.epoch, seq: frame.seq, rseq: frame.rseq });
  }
  const card = frame.card ?? {};
  if (card.likes !== undefined && card.likes !== null) $("likes").textContent = card.likes;
  if (card.users !== undefined && card.users !== null) $("viewers").textContent = card.users;
  showAnnouncement(card.announcement);
  if (known) take(card.messages ?? []);
  else for (const message of card.messages ?? []) showMessage(message);
  failures = 0;
  setStatus("on", "connected");
}

function onFrame(text) {
  const [first, ...lines] = text.split("\n").filter(Boolean);
  const frame = JSON.parse(first);
  if (frame.room !== undefined && frame.room !== room.id) return;
  switch (frame.t) {
    case "hello":
      $("gateway").textContent = frame.gateway;
      startBeat(frame.heartbeat_s, frame.silence_s);
      socket.send(JSON.stringify(joinFrame()));
      break;
    case "joined":
      onJoined(frame);
      break;
    case "batch":
      onBatch(frame, lines);
      break;
    case "notice":
      note(`${frame.kind}${frame.why ? ": " + frame.why : ""}`);
      break;
    case "move":
      note("the gateway asks us to move");
      reconnectIn(frame.delay_s ?? 0);
      break;
    case "error":
      refuse(`${frame.code}: ${frame.detail ?? ""}`);
      break;
  }
}

function joinFrame() {
  const frame = { t: "join", room: room.id };
  if (room.seq !== null) Object.assign(frame, { epoch: room.epoch, seq: room.seq, rseq: room.rseq ?? 0 });
  return frame;
}

// ---- the connection
function startBeat(everyS, limitS) {
  clearInterval(beatTimer);
  beatTimer = setInterval(() => {
    const rooms = room.seq === null ? {} : { [room.id]: [room.seq, room.rseq ?? 0] };
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ t: "hb", rooms }));
  }, everyS * 1000);
  heard(limitS);
}

function heard(limitS) {
  silenceS = limitS ?? silenceS;
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(() => dropped("the gateway is silent"), silenceS * 1000);
}

function disconnect() {
  for (const timer of [retryTimer, silenceTimer]) clearTimeout(timer);
  clearInterval(beatTimer);
  const old = socket;
  socket = null;
  if (old) {
    old.onopen = old.onmessage = old.onclose = old.onerror = null;
    old.close(1000);
  }
}

function reconnectIn(seconds) {
  clearTimeout(retryTimer);
  retryTimer = setTimeout(connect, seconds * 1000);
}

function dropped(why, rule) {
  disconnect();
  if (rule && !rule.reconnect) {
    setStatus("off", `closed: ${why}`);
    return;
  }
  const base = Math.min(MAX_DELAY_S, Math.max(rule?.after_s ?? 0.5, 0.5 * 2 ** failures));
  const delayS = Math.random() * base; // full jitter
  failures += 1;
  setStatus("trying", `${why}; trying again in ${delayS.toFixed(1)} s`);
  reconnectIn(delayS);
}

async function connect() {
  disconnect();
  setStatus("trying", "asking for a gateway");
  const asked = room;
  let entry;
  try {
    entry = await call(`${config.scheduler}/v1/entry?room=${encodeURIComponent(room.id)}`);
  } catch (error) {
    if (room === asked) dropped(error.message);
    return;
  }
  if (room !== asked) return;
  const gateways = entry.gateways;
  const gateway = gateways[Math.floor(Math.random() * gateways.length)];
  const made = new WebSocket(`${gateway.url}?ticket=${encodeURIComponent(entry.ticket)}`, "liveroom.v1.json");
  socket = made;
  heard(10);
  made.onmessage = (event) => {
    heard();
    try {
      onFrame(event.data);
    } catch (error) {
      console.error("frame", error);
    }
  };
  made.onclose = (event) => {
    const rule = config.closes[event.code];
    dropped(rule ? rule.reason : "connection lost", rule);
  };
}

// ---- requests
class Refused extends Error {
  constructor(problem, status, retryAfterS) {
    super(problem.detail ? `${problem.title}: ${problem.detail}` : (problem.title ?? `HTTP ${status}`));
    this.code = problem.code ?? "";
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

async function request(url, options) {
  const response = await fetch(url, { ...options, signal: AbortSignal.timeout(8000) });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(body, response.status, Number(response.headers.get("Retry-After")) || 0);
  return body;
}

async function getToken() {
  const headers = { "Content-Type": "application/json" };
  const got = await request("/demo/token", { method: "POST", headers, body: JSON.stringify({ name: me.name, user: me.user }) });
  Object.assign(me, got);
}

// With our token; a stale one is renewed once.
async function call(url, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await request(url, { ...options, headers: { ...options.headers, Authorization: `Bearer ${me.token}` } });
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401 || attempt > 0) throw error;
      await getToken();
    }
  }
}

// The same id at every attempt, so that nothing arrives twice.
async function send(path, body) {
  refuse("");
  const options = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ id: newId(), ...body }),
  };
  const url = `${config.ingress}/v1/rooms/${encodeURIComponent(room.id)}/${path}`;
  for (let attempt = 1; ; attempt += 1) {
    try {
      await call(url, options);
      return true;
    } catch (error) {
      const passing = !(error instanceof Refused) || error.status >= 500;
      if (!passing || attempt === ATTEMPTS) {
        refuse(error instanceof Refused ? `Not sent. ${error.message}` : "Not sent: the service does not answer.");
        return false;
      }
      await sleep(Math.max(error.retryAfterS ?? 0, 0.5 * attempt) * 1000);
    }
  }
}

// ---- what the person does
$("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  refuse("");
  me = { name: $("name").value.trim(), user: sessionStorage.getItem("user") ?? "" };
  try {
    config = await request("/demo/config");
    await getToken();
  } catch (error) {
    setStatus("off", `the demo does not answer: ${error.message}`);
    return;
  }
  sessionStorage.setItem("user", me.user);
  sessionStorage.setItem("name", me.name);
  room = { id: $("room").value, epoch: null, seq: null, rseq: null };
  $("where").textContent = room.id;
  $("log").replaceChildren();
  for (const id of ["viewers", "likes", "gateway"]) $(id).textContent = "–";
  showAnnouncement(null);
  $("entry").hidden = true;
  $("live").hidden = false;
  $("text").focus();
  failures = 0;
  connect();
});

$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  const sent = await send("danmaku", { text, color: parseInt($("color").value.slice(1), 16) });
  if (!sent && !$("text").value) $("text").value = text;
});

$("like").addEventListener("click", () => {
  taps += 1;
  if (taps > 1) return;
  setTimeout(() => {
    const count = Math.min(taps, 1000);
    taps = 0;
    send("likes", { count });
  }, LIKE_WINDOW_MS);
});

$("give").addEventListener("click", () => send("gifts", { gift: $("gift").value, count: 1 }));

$("leave").addEventListener("click", () => {
  disconnect();
  room = null;
  setStatus("off", "not connected");
  $("live").hidden = true;
  $("entry").hidden = false;
});

async function begin() {
  $("name").value = sessionStorage.getItem("name") ?? "";
  const asked = new URLSearchParams(location.search);
  try {
    config = await request("/demo/config");
    for (const id of config.rooms) $("rooms").append(new Option(id, id));
    $("room").value = asked.get("room") ?? config.rooms[0] ?? "";
  } catch {
    $("room").value = asked.get("room") ?? "";
  }
  if (asked.has("name")) {
    $("name").value = asked.get("name");
    $("entry").requestSubmit();
  }
}

begin();
