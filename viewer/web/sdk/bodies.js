// What stands for a value that is left out or of another type: [its type, the default]. Made from liveroom/bodies.py and liveroom/records/snapshot.py by docs/generate.py.
export const BODIES = {
  danmaku: {
    text: ["text", ""],
    color: ["whole", 16777215],
    mode: [["scroll", "top", "bottom", "reverse"], "scroll"],
    size: ["whole", 25],
    reply: ["text", ""],
    mention: ["texts", []],
  },
  gift: {
    gift: ["text", ""],
    count: ["whole", 1],
    combo: ["whole", 0],
    to: ["text", ""],
  },
  red_packet: {
    packet: ["text", ""],
    text: ["text", ""],
    count: ["whole", 0],
    opens_ms: ["whole", 0],
  },
  coupon: {
    coupon: ["text", ""],
    text: ["text", ""],
    count: ["whole", 0],
    ends_ms: ["whole", 0],
  },
  goods: {
    goods: ["text", ""],
    title: ["text", ""],
    price: ["whole", 0],
    currency: ["text", ""],
    image: ["text", ""],
    link: ["text", ""],
  },
  announcement: {
    text: ["text", ""],
    link: ["text", ""],
  },
  enter: {
    badge: ["text", ""],
    text: ["text", ""],
  },
  leave: {
    badge: ["text", ""],
    text: ["text", ""],
  },
  custom: {
    type: ["text", ""],
    body: ["any", null],
  },
  clear: {
    id: ["text", ""],
    user: ["text", ""],
    before_ms: ["whole", 0],
    sender: ["text", ""],
  },
};
export const MODES = {
  slow_s: ["number", 0.0],
  muted_all: ["truth", false],
  allow: ["texts", []],
  followers_only: ["truth", false],
  subscribers_only: ["truth", false],
  no_media: ["truth", false],
  fold_identical: ["truth", false],
  limit_per_s: ["whole", 0],
  hidden: ["truth", false],
  dissolved: ["truth", false],
  guests: ["truth", true],
  restricted: ["truth", false],
};
