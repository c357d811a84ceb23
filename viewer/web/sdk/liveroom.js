// The SDK: `LiveRoom` watches rooms, `Sender` sends to them. Types: liveroom.d.ts. Protocol: docs/viewer-protocol.md.
export { ask, deviceId, LiveRoom, newId, Refused, Sender } from "./client.js";
export { ruleFor, Session } from "./session.js";
export { userId, userText } from "./users.js";
