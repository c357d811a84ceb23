// What a client does when a connection ended. Made from liveroom/closecodes.py by docs/generate.py.
export const CLOSES = {
  1000: { code: 1000, reason: "bye", reconnect: false, afterS: 0 },
  1001: { code: 1001, reason: "going away", reconnect: true, afterS: 0.5 },
  1002: { code: 1002, reason: "protocol error", reconnect: false, afterS: 0 },
  1003: { code: 1003, reason: "text frames only", reconnect: false, afterS: 0 },
  1007: { code: 1007, reason: "invalid UTF-8", reconnect: false, afterS: 0 },
  1009: { code: 1009, reason: "frame too big", reconnect: false, afterS: 0 },
  1012: { code: 1012, reason: "restart", reconnect: true, afterS: 0.2 },
  4003: { code: 4003, reason: "banned", reconnect: false, afterS: 0 },
  4004: { code: 4004, reason: "room dissolved", reconnect: false, afterS: 0 },
  4005: { code: 4005, reason: "no heartbeat", reconnect: true, afterS: 0.5 },
  4006: { code: 4006, reason: "no join", reconnect: true, afterS: 1 },
  4008: { code: 4008, reason: "too slow", reconnect: true, afterS: 1 },
  4009: { code: 4009, reason: "moved", reconnect: true, afterS: 0.2 },
  4010: { code: 4010, reason: "bad frame", reconnect: false, afterS: 0 },
  4011: { code: 4011, reason: "too many frames", reconnect: false, afterS: 0 },
  4012: { code: 4012, reason: "put out", reconnect: false, afterS: 0 },
  4013: { code: 4013, reason: "revoked", reconnect: false, afterS: 0 },
};
export const ABNORMAL = { code: 1006, reason: "connection lost", reconnect: true, afterS: 0.5 };
