// A page as an application has it: it shows what comes, and sends one line.
import { LiveRoom, Sender } from "liveroom";

const services = new URLSearchParams(location.search).get("services") ?? "";

function show(text: string): void {
  const line = document.createElement("li");
  line.textContent = text;
  document.querySelector("ol")?.append(line);
}

new LiveRoom({
  scheduler: services,
  rooms: ["lobby"],
  onEffect(effect) {
    if (effect.type === "delivered" && effect.message.kind === "danmaku") show(effect.message.data.text);
  },
}).start();

const sender = new Sender({ ingress: services, token: async () => "token" });
sender.send("lobby", "danmaku", { text: document.title }).then(
  ({ id }) => show(`sent ${id !== ""}`),
  (error: Error) => show(`failed ${error.message}`),
);
