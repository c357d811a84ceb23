// The texts of the pages in English and Chinese, and the text that a person sees for each refusal code (docs/errors.md).
// tests/browser/test_words.py checks that both languages have every text and that no code is missing.

import { foreign, isolated, isVisible } from "./texts.js";

export const TEXTS = {
  en: {
    "title.viewer": "Live room",
    "title.host": "Host desk",
    "title.ops": "Operations",
    "nav.viewer": "Watch",
    "nav.host": "Host",
    "nav.ops": "Operations",
    "language": "中文",
    "language.label": "切换到中文",
    "entry.name": "Your name",
    "entry.guest": "guest",
    "entry.room": "Room",
    "entry.role": "You are",
    "entry.enter": "Enter",
    "name.first": "Choose a name first, then you can take part.",
    "name.invisible": "This name shows nothing. Choose one that others can see.",
    "entry.failed": "The demo does not respond. Is it still running?",
    "role.streamer": "the streamer",
    "role.moderator": "a moderator",
    "state.idle": "not connected",
    "state.connecting": "connecting",
    "state.open": "connected",
    "state.events": "connected, over HTTP",
    "state.waiting": "connection lost, reconnecting",
    "state.offline": "you are offline",
    "state.ended": "connection closed",
    "ended.1000": "You have left.",
    "ended.4003": "You are banned from this room.",
    "ended.4004": "The room is closed.",
    "ended.4012": "You were removed from this room. You can come back later.",
    "ended.guests": "This room does not admit guests. Enter with your name.",
    "ended.forbidden": "Only invited people may be in this room.",
    "ended.other": "The room can no longer be shown ({reason}).",
    "ended.again": "Enter again",
    "count.viewers": "Viewers",
    "count.connections": "Connections",
    "count.likes": "Likes",
    "count.gifts": "Gifts",
    "count.rate": "Messages/s",
    "chat.label": "Chat",
    "chat.more": "{n} more messages",
    "chat.newest": "Jump to the newest",
    "chat.lost": "{n} gifts or notices did not arrive",
    "chat.renumbered": "The room's history starts over",
    "chat.entered": "{name} joined",
    "chat.left": "{name} left",
    "stage.label": "Danmaku over the stage",
    "stage.show": "Danmaku",
    "send.text": "Say something",
    "send.color": "Colour",
    "send.mode": "Position",
    "mode.scroll": "scrolling",
    "mode.top": "top",
    "mode.bottom": "bottom",
    "send.send": "Send",
    "send.like": "Like",
    "send.gift": "Gift",
    "send.give": "Give",
    "send.leave": "Leave",
    "gift.rose": "rose",
    "gift.heart": "heart",
    "gift.rocket": "rocket",
    "gift.castle": "castle",
    "gift.gives": "{name} gives {gift}",
    "card.red_packet": "Red packet",
    "card.coupon": "Coupon",
    "card.goods": "For sale",
    "card.close": "Close",
    "card.open": "View",
    "announcement": "Announcement",
    "notice.mute": "You are muted. You can watch but not chat.",
    "notice.unmute": "You can chat again.",
    "notice.ban": "You are banned.",
    "notice.unban": "You are no longer banned.",
    "notice.kick": "You were removed from this room.",
    "notice.why": "Reason: {why}",
    "until": "It ends at {time}.",
    "until.never": "It has no set end.",
    "modes.changed": "The room's rules have changed",
    "host.gifts": "Gifts",
    "host.people": "Muted and banned",
    "host.modes": "Room rules",
    "host.words": "Blocked words",
    "host.announce": "Announcement",
    "host.none": "none",
    "host.mute": "Mute 10 min",
    "host.ban": "Ban",
    "host.kick": "Kick",
    "host.delete": "Delete",
    "host.lift": "Lift",
    "host.muted": "muted",
    "host.banned": "banned",
    "host.done": "Done.",
    "host.slow": "Seconds between two messages from one person",
    "host.muted_all": "Only hosts can chat",
    "host.followers_only": "Followers only",
    "host.subscribers_only": "Subscribers only",
    "host.no_media": "Text only",
    "host.fold_identical": "Merge identical danmaku",
    "host.guests": "Guests may watch",
    "host.restricted": "Invited people only",
    "host.save": "Save",
    "host.word": "Word",
    "host.refuse": "Reject the message",
    "host.mask": "Show it as ***",
    "host.count": "Only count it",
    "host.action": "Action",
    "host.add": "Add",
    "host.say": "Announce",
    "host.text": "Text (leave empty to remove it)",
    "host.dissolve": "Close the room",
    "host.reopen": "Reopen the room",
    "host.sure": "Close the room and remove everyone?",
    "ops.gateways": "Gateways",
    "ops.hot": "Rooms with most viewers",
    "ops.pool": "Gateway pool",
    "ops.decisions": "Decisions",
    "ops.gateway": "Gateway",
    "ops.standing": "Status",
    "ops.weight": "Weight",
    "ops.cpu": "CPU",
    "ops.delay": "Delay",
    "ops.joins": "Joins/s",
    "ops.room": "Room",
    "ops.when": "When",
    "ops.from": "From",
    "ops.to": "To",
    "ops.why": "Reason",
    "ops.pause": "Pause the pool",
    "ops.resume": "Resume the pool",
    "ops.paused": "paused by {by}",
    "ops.steady": "{actual} gateways, {desired} wanted: {reason}",
    "ops.nopool": "No autoscaler is running. Start one with liveroom demo --surge or liveroom up --policy FILE.",
    "ops.silent": "The scheduler does not respond.",
    "standing.open": "open",
    "standing.full": "full",
    "standing.draining": "draining",
    "standing.starting": "starting",
    "standing.stale": "not reporting",
    "standing.unknown": "unknown",
    "standing.skewed": "clock off by {s} s",
    "refused": "That failed. {why}",
    "refused.wait": "Try again in {s} s.",
    "refused.unreachable": "The service does not respond. Try again.",
    "refused.other": "The request was refused ({code}).",
  },
  zh: {
    "title.viewer": "直播间",
    "title.host": "主播台",
    "title.ops": "运维台",
    "nav.viewer": "观看",
    "nav.host": "主播",
    "nav.ops": "运维",
    "language": "English",
    "language.label": "Switch to English",
    "entry.name": "你的昵称",
    "entry.guest": "游客",
    "entry.room": "房间号",
    "entry.role": "身份",
    "entry.enter": "进入",
    "name.first": "先取个昵称，就能参与互动了。",
    "name.invisible": "这个昵称没有可见的字符，请换一个。",
    "entry.failed": "演示服务没有响应，请确认它仍在运行。",
    "role.streamer": "主播",
    "role.moderator": "房管",
    "state.idle": "未连接",
    "state.connecting": "连接中",
    "state.open": "已连接",
    "state.events": "已连接（HTTP）",
    "state.waiting": "连接已断开，正在重连",
    "state.offline": "网络已断开",
    "state.ended": "连接已关闭",
    "ended.1000": "你已离开直播间。",
    "ended.4003": "你已被本直播间封禁。",
    "ended.4004": "直播间已关闭。",
    "ended.4012": "你已被移出直播间，稍后可以重新进入。",
    "ended.guests": "本直播间不接待游客，请输入昵称后进入。",
    "ended.forbidden": "本直播间仅限受邀用户进入。",
    "ended.other": "无法继续观看（{reason}）。",
    "ended.again": "重新进入",
    "count.viewers": "观众",
    "count.connections": "连接数",
    "count.likes": "点赞",
    "count.gifts": "礼物",
    "count.rate": "消息/秒",
    "chat.label": "聊天区",
    "chat.more": "另有 {n} 条消息",
    "chat.newest": "回到最新消息",
    "chat.lost": "有 {n} 条礼物或通知未送达",
    "chat.renumbered": "消息记录已重置",
    "chat.entered": "{name} 来了",
    "chat.left": "{name} 离开了",
    "stage.label": "弹幕画面",
    "stage.show": "弹幕",
    "send.text": "发条弹幕吧",
    "send.color": "弹幕颜色",
    "send.mode": "弹幕位置",
    "mode.scroll": "滚动",
    "mode.top": "顶部",
    "mode.bottom": "底部",
    "send.send": "发送",
    "send.like": "点赞",
    "send.gift": "礼物",
    "send.give": "赠送",
    "send.leave": "退出",
    "gift.rose": "玫瑰",
    "gift.heart": "爱心",
    "gift.rocket": "火箭",
    "gift.castle": "城堡",
    "gift.gives": "{name} 送出 {gift}",
    "card.red_packet": "红包",
    "card.coupon": "优惠券",
    "card.goods": "商品",
    "card.close": "关闭",
    "card.open": "查看",
    "announcement": "公告",
    "notice.mute": "你已被禁言，可以继续观看，但不能发言。",
    "notice.unmute": "禁言已解除，可以发言了。",
    "notice.ban": "你已被封禁。",
    "notice.unban": "你的封禁已解除。",
    "notice.kick": "你已被移出直播间。",
    "notice.why": "原因：{why}",
    "until": "{time} 解除。",
    "until.never": "不会自动解除。",
    "modes.changed": "直播间规则已更新",
    "host.gifts": "礼物",
    "host.people": "禁言与封禁名单",
    "host.modes": "直播间规则",
    "host.words": "敏感词",
    "host.announce": "公告",
    "host.none": "暂无",
    "host.mute": "禁言 10 分钟",
    "host.ban": "封禁",
    "host.kick": "踢出",
    "host.delete": "删除",
    "host.lift": "解除",
    "host.muted": "已禁言",
    "host.banned": "已封禁",
    "host.done": "操作成功。",
    "host.slow": "每人发言间隔（秒）",
    "host.muted_all": "仅主播和房管可发言",
    "host.followers_only": "仅粉丝可发言",
    "host.subscribers_only": "仅订阅用户可发言",
    "host.no_media": "仅限文字",
    "host.fold_identical": "合并相同弹幕",
    "host.guests": "允许游客观看",
    "host.restricted": "仅限受邀用户",
    "host.save": "保存",
    "host.word": "输入敏感词",
    "host.refuse": "拦截",
    "host.mask": "替换为 ***",
    "host.count": "仅统计",
    "host.action": "处理方式",
    "host.add": "添加",
    "host.say": "发布",
    "host.text": "公告内容（留空则撤下）",
    "host.dissolve": "关闭直播间",
    "host.reopen": "重新开放",
    "host.sure": "确定要关闭直播间并移出所有人吗？",
    "ops.gateways": "网关",
    "ops.hot": "观众最多的直播间",
    "ops.pool": "网关池",
    "ops.decisions": "伸缩决策",
    "ops.gateway": "网关",
    "ops.standing": "状态",
    "ops.weight": "权重",
    "ops.cpu": "CPU",
    "ops.delay": "延迟",
    "ops.joins": "进房/秒",
    "ops.room": "房间号",
    "ops.when": "时间",
    "ops.from": "原数量",
    "ops.to": "目标数量",
    "ops.why": "原因",
    "ops.pause": "暂停伸缩",
    "ops.resume": "恢复伸缩",
    "ops.paused": "已由 {by} 暂停",
    "ops.steady": "现有 {actual} 个网关，目标 {desired} 个：{reason}",
    "ops.nopool": "伸缩器未运行。可通过 liveroom demo --surge 或 liveroom up --policy FILE 启动。",
    "ops.silent": "调度器没有响应。",
    "standing.open": "可用",
    "standing.full": "已满",
    "standing.draining": "排空中",
    "standing.starting": "启动中",
    "standing.stale": "失联",
    "standing.unknown": "未知",
    "standing.skewed": "时钟偏差 {s} 秒",
    "refused": "操作失败：{why}",
    "refused.wait": "请 {s} 秒后重试。",
    "refused.unreachable": "服务没有响应，请重试。",
    "refused.other": "请求被拒绝（{code}）。",
  },
};

// What a person reads about a refusal. Codes that only a program can cause are absent: they get `refused.other`.
export const REFUSALS = {
  en: {
    muted: "You are muted in this room.",
    banned: "You are banned from this room.",
    kicked: "You were removed from this room.",
    room_muted: "Only hosts can chat at the moment.",
    followers_only: "Only followers can chat here.",
    subscribers_only: "Only subscribers can chat here.",
    no_media: "This room accepts text only.",
    words: "Your message contains a word that this room blocks.",
    review: "Your message did not pass review.",
    rate_user: "You are sending too fast.",
    rate_room: "The room is very busy.",
    rate_address: "Too many requests come from your network.",
    slow_mode: "The room is in slow mode.",
    room_dissolved: "The room is closed.",
    queue_unavailable: "The service is too busy.",
    not_ready: "The service is just starting.",
    no_gateway: "The service is full at the moment.",
    draining: "You are being moved to another gateway.",
    full: "The service is full at the moment.",
    schema: "The message is malformed.",
    too_large: "The message is too long.",
    forbidden: "You are not allowed to do that.",
    token_expired: "Your session has expired. Enter again.",
    revoked: "Your session was ended. Enter again.",
    internal: "Something failed on our side.",
    limit: "The limit for these is reached.",
  },
  zh: {
    muted: "你已被本直播间禁言。",
    banned: "你已被本直播间封禁。",
    kicked: "你已被移出本直播间。",
    room_muted: "当前仅主播和房管可发言。",
    followers_only: "本直播间仅粉丝可发言。",
    subscribers_only: "本直播间仅订阅用户可发言。",
    no_media: "本直播间仅限发送文字。",
    words: "内容含有本直播间禁止的词语。",
    review: "内容未通过审核。",
    rate_user: "发送太频繁了，请歇一会儿。",
    rate_room: "直播间太火爆了。",
    rate_address: "你所在网络的请求过于频繁。",
    slow_mode: "直播间已开启慢速模式。",
    room_dissolved: "直播间已关闭。",
    queue_unavailable: "服务繁忙。",
    not_ready: "服务正在启动。",
    no_gateway: "当前人数已满。",
    draining: "正在为你切换线路。",
    full: "当前人数已满。",
    schema: "内容格式不正确。",
    too_large: "内容过长。",
    forbidden: "你没有权限执行此操作。",
    token_expired: "登录已过期，请重新进入。",
    revoked: "你的登录已被撤销，请重新进入。",
    internal: "服务器出错了。",
    limit: "数量已达上限。",
  },
};

/** Returns a stored value, or null where the browser stores nothing for this page (it then throws on access). */
export function kept(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

export function keep(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // The page asks again next time.
  }
}

let language = pick();

function pick() {
  const last = kept("localStorage", "language");
  if (last === "en" || last === "zh") return last;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Returns a text of the pages with its values filled in; those that are texts turn nothing beside them. */
export function t(key, values = {}) {
  const text = TEXTS[language][key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => isolated(String(values[name] ?? "")));
}

/** Returns the same as text and elements, where there may be elements. */
export function parts(key, values) {
  const split = TEXTS[language][key].split(/\{(\w+)\}/);
  return split.map((part, place) => (place % 2 ? foreign(String(values[part] ?? "")) : part)).filter((part) => part !== "");
}

const SILENT = new Set(["network", "timeout", "bad_answer"]); // the SDK's codes where no service of ours answered
const SANCTIONS = new Set(["banned", "muted"]);

/** Returns when a mute or ban ends, as one sentence for a person; none where that is unknown. `untilMs` -1: never. */
export function ends(untilMs) {
  if (untilMs === -1) return [t("until.never")];
  if (!(untilMs > 0)) return [];
  const time = new Date(untilMs).toLocaleString(language === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" });
  return [t("until", { time })];
}

/** Returns why something failed, in sentences for a person. `error`: of a call of the SDK, or a room's refusal. */
export function why(error) {
  if (error.code === "token_failed" && error.cause?.code) return why(error.cause);
  if ((!error.code && !error.status) || SILENT.has(error.code)) return t("refused.unreachable");
  const known = REFUSALS[language];
  const isKnown = Object.prototype.hasOwnProperty.call(known, error.code);
  const text = isKnown ? known[error.code] : t("refused.other", { code: error.status && error.code === "http_error" ? error.status : error.code });
  if (SANCTIONS.has(error.code)) {
    const reason = isVisible(error.detail ?? "") ? [t("notice.why", { why: error.detail })] : [];
    return [text, ...ends(error.untilMs ?? error.until_ms), ...reason].join(" ");
  }
  return error.retryAfterS >= 1 ? `${text} ${t("refused.wait", { s: Math.ceil(error.retryAfterS) })}` : text;
}

/** Fills every element that has `data-t`, `data-t-label` or `data-t-placeholder` with its text. */
export function translate(root = document) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const one of root.querySelectorAll("[data-t]")) one.textContent = t(one.dataset.t);
  for (const one of root.querySelectorAll("[data-t-label]")) one.setAttribute("aria-label", t(one.dataset.tLabel));
  for (const one of root.querySelectorAll("[data-t-placeholder]")) one.placeholder = t(one.dataset.tPlaceholder);
}

/** Makes a button switch the language; `changed` redraws what scripts have built. */
export function switchable(button, changed = () => {}) {
  button.addEventListener("click", () => {
    language = language === "en" ? "zh" : "en";
    keep("localStorage", "language", language);
    translate();
    changed();
  });
  translate();
}
