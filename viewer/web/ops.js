// The operator's page: gateways with their load and weight, the rooms with most viewers, the pool and its decisions.

import { $, config, el, number, Person, refuse, shownUser } from "./common.js";
import { parts, switchable, t } from "./i18n.js";
import { ask } from "./sdk/liveroom.js";
import { foreign } from "./texts.js";

const LOOK_MS = 2000;
const HOT = 10;
const DECISIONS = 20;

let settings = null;
let person = null;

async function get(url, options = {}) {
  return ask(url, { ...options, headers: { Authorization: `Bearer ${await person.token()}` } });
}

function row(...cells) {
  return el("tr", {}, ...cells.map((cell) => foreign(String(cell), "td")));
}

function showGateways(gateways) {
  const delay = (value) => (value === undefined || value === null ? "–" : `${Math.round(value)} ms`);
  const share = (value) => (value === undefined || value === null ? "–" : `${Math.round(value * 100)}%`);
  $("gateways").replaceChildren(
    ...gateways.map((seen) =>
      row(
        seen.gateway,
        t(`standing.${seen.standing}`, { s: Math.round(seen.skew_s ?? 0) }),
        `${number(seen.connections)} / ${number(seen.limits.connections)}`,
        number(Math.round(seen.weight)),
        share(seen.cpu),
        number(seen.joins_per_s === null || seen.joins_per_s === undefined ? null : Math.round(seen.joins_per_s)),
        delay(seen.delay_ms),
      ),
    ),
  );
  const rooms = new Map();
  for (const { hot } of gateways)
    for (const { room, connections } of hot ?? []) rooms.set(room, (rooms.get(room) ?? 0) + connections);
  const hottest = [...rooms].sort((a, b) => b[1] - a[1]).slice(0, HOT);
  $("hot").replaceChildren(...hottest.map(([room, connections]) => row(room, number(connections))));
}

function showPool(pool, decisions) {
  const { last, paused_by: by } = pool;
  const state = last ? parts("ops.steady", last) : [];
  $("pool").replaceChildren(...state, ...(by ? [", ", ...parts("ops.paused", { by: shownUser(by) })] : []));
  $("pause").hidden = Boolean(by);
  $("resume").hidden = !by;
  const time = (ms) => new Date(ms).toLocaleTimeString();
  $("decisions").replaceChildren(
    ...decisions
      .slice(0, DECISIONS)
      .map((each) => row(time(each.at_ms), each.actual, each.desired, `${each.reason}: ${each.detail}`)),
  );
}

async function look() {
  try {
    const { gateways } = await get(`${settings.scheduler.split(",")[0]}/v1/gateways`);
    showGateways(gateways);
    $("status").dataset.state = "open";
    $("status").textContent = t("state.open");
  } catch {
    $("status").dataset.state = "waiting";
    $("status").textContent = t("ops.silent");
  }
  if (!settings.autoscaler) {
    $("pool").textContent = t("ops.nopool");
    return;
  }
  try {
    const [pool, { decisions }] = await Promise.all([
      get(`${settings.autoscaler}/v1/pool`),
      get(`${settings.autoscaler}/v1/decisions`),
    ]);
    showPool(pool, decisions);
  } catch {
    $("pool").textContent = t("refused.unreachable");
  }
}

async function tell(what) {
  refuse();
  try {
    await get(`${settings.autoscaler}/v1/pool/${what}`, { method: "POST" });
    await look();
  } catch (error) {
    refuse(error);
  }
}

async function begin() {
  switchable($("language"), () => settings && look());
  $("pause").addEventListener("click", () => tell("pause"));
  $("resume").addEventListener("click", () => tell("resume"));
  for (;;) {
    if (!document.hidden) {
      try {
        settings ??= await config();
        person ??= new Person(settings, "operator", "operator");
        await look();
      } catch {
        $("status").dataset.state = "waiting";
        $("status").textContent = t("entry.failed");
      }
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

begin();
