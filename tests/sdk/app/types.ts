// What the types let an application do, and what they keep it from. It is checked, and never runs.
import { ask, LiveRoom, LiveRoomError, Refused, Sender, type Card, type Effect, type Message } from "liveroom";

export function shown(message: Message): string {
  switch (message.kind) {
    case "danmaku": {
      const color: number = message.data.color;
      return `${message.data.text} ${color} ${message.data.mention.length}`;
    }
    case "gift":
      return `${message.data.gift} x${message.data.count}`;
    case "enter":
      return message.data.badge;
    case "room":
      return String(message.data.slow_s ?? "unchanged");
    case "clear":
      return message.data.user;
    default:
      if ((message.kind as string) === "vote") return JSON.stringify(message.data);
      return message.kind;
  }
}

export function history(card: Card): string[] {
  const slow: number | undefined = card.settings?.slow_s;
  return [String(slow), ...card.messages.map(shown)];
}

export function watch(): LiveRoom {
  return new LiveRoom({
    scheduler: ["https://entry.example"],
    rooms: new Set(["lobby"]),
    token: null,
    onEffect(effect: Effect) {
      if (effect.type === "entered" && effect.card !== null) history(effect.card);
      if (effect.type === "ended" && effect.refusal !== null) console.log(effect.refusal.until_ms, effect.refusal.detail);
      if (effect.type === "told" && effect.what.t === "notice") console.log(effect.what.why);
    },
    onState: ({ failure }) => console.log(failure?.code, failure?.detail),
  }).start();
}

export async function send(): Promise<string> {
  const sender = new Sender({ ingress: "https://send.example", token: async () => "token" });
  const { text, at_ms } = await sender.send("lobby", "danmaku", { text: "hello" });
  await sender.send("lobby", "gifts", { id: "order-1", gift: "rose", count: 3 });
  await sender.send("lobby", "likes", {});
  await sender.send("lobby", "red-packets", { packet: "rp-1" });
  await sender.send("lobby", "custom", { type: "sticker", body: { n: 3 } });
  await sender.send("lobby", "packages", { package: "p", items: [{ kind: "gift", data: { gift: "rose" } }] });
  // @ts-expect-error: the field is misspelt
  await sender.send("lobby", "danmaku", { txt: "hello" });
  // @ts-expect-error: a gift has a name
  await sender.send("lobby", "gifts", { count: 3 });
  // @ts-expect-error: there is no such path
  await sender.send("lobby", "danmakus", { text: "hello" });
  // @ts-expect-error: a token function gives a text
  new Sender({ ingress: "https://send.example", token: () => null });
  return `${text} ${at_ms}`;
}

export async function fail(): Promise<string> {
  try {
    await ask("https://entry.example/v1/entry?room=lobby");
    return "";
  } catch (error) {
    if (error instanceof Refused) return `${error.status} ${error.code} ${error.untilMs} ${error.requestId}`;
    if (error instanceof LiveRoomError && error.code === "network") return error.detail;
    throw error;
  }
}
