// What pages take from the bodies of messages. Services that write messages themselves put anything there: a value of another
// type than a page expects counts as missing. Pure.

const MOST_COLOUR = 0xffffff;

/** Returns a text; empty where there is none. */
export const textOf = (value) => (typeof value === "string" ? value : "");

/** Returns a count: a whole number from 1 on; 1 where there is none. */
export const countOf = (value) => (Number.isSafeInteger(value) && value >= 1 ? value : 1);

/** Returns a number between two others; `usual` where there is none. */
export const numberOf = (value, least, most, usual) => (Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : usual);

/** Returns a colour for style sheets; null where there is none. */
export const colourOf = (value) =>
  Number.isInteger(value) && value >= 0 && value <= MOST_COLOUR ? `#${value.toString(16).padStart(6, "0")}` : null;
