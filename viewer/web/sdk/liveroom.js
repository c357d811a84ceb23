// The SDK: `LiveRoom` watches rooms, `Sender` sends to them. Types: liveroom.d.ts. Protocol: docs/viewer-protocol.md.
export { deviceId, LiveRoom, newId, Sender } from "./client.js";
export { ask, LiveRoomError, Refused } from "./requests.js";
export { ruleFor } from "./session.js";
export { userId, userText } from "./users.js";
