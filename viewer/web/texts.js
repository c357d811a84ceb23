// Texts that people wrote, as pages show them: whether one shows anything, which characters are replaced, and how its direction
// turns nothing beside it. liveroom/texts.py follows the same rules; tests/data/texts.json holds both to them. Pure, but `foreign`.

const NOTHING = String.raw`\p{Z}\p{M}\p{Cc}\p{Cf}\p{Cs}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}`;
const NO_INK = "\u2800\ufff0-\ufffc\u{13441}\u{13442}\u{1d159}"; // glyphs without ink
const INKED = "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u{110bd}\u{110cd}"; // format characters around digits
const VISIBLE = new RegExp(`[^${NOTHING}${NO_INK}]|[${INKED}]`, "u");
const REPLACED = "[\\p{Cc}\\p{Cf}\\p{Cs}\\p{Co}\\p{Zl}\\p{Zp}\\p{Noncharacter_Code_Point}]|(?=\\p{Cn})\\p{Default_Ignorable_Code_Point}";
const FLAG = "\u{1f3f4}[\u{e0030}-\u{e0039}\u{e0061}-\u{e007a}]{1,8}\u{e007f}"; // of a region, in tags
// The first group stays: flags, joiners, breaks within words and marks of direction, for words and emoji need them.
const SHOWN = new RegExp(`(${FLAG}|[\u200b-\u200f\u061c\u180e\u00ad\u2060${INKED}])|${REPLACED}`, "gu");
const SHOWN_UNJOINED = new RegExp(`([${INKED}])|${REPLACED}`, "gu");
const TURNS = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefe\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
const OPEN = /[\u2066-\u2068]/u; // what begins an isolated run
const CLOSE = "\u2069";
const PARAGRAPHS = /[\u001c-\u001e\u0085\u2029]/u; // they end every run

/** Returns whether a text shows anything to a person. */
export const isVisible = (text) => VISIBLE.test(text);

/** Returns a name or the like with characters replaced that nobody sees or that turn the text around them. */
export function shown(text, { joins = true } = {}) {
  return text.replace(joins ? SHOWN : SHOWN_UNJOINED, (_, kept) => kept ?? "\ufffd");
}

/** Returns a text that cannot end the isolated run it stands in, and how many runs it leaves open. */
function contained(text) {
  if (!TURNS.test(text) && !PARAGRAPHS.test(text)) return [text, 0];
  let open = 0;
  let made = "";
  for (const one of text) {
    const isStray = one === CLOSE && open === 0;
    if (OPEN.test(one)) open += 1;
    else if (one === CLOSE && !isStray) open -= 1;
    made += isStray ? "\ufffd" : PARAGRAPHS.test(one) ? " " : one;
  }
  return [made, open];
}

/** Returns a text so that it turns nothing beside it where there are no elements: on a canvas, in a title, within a sentence. */
export function isolated(text) {
  const [made, open] = contained(text);
  return !TURNS.test(text) ? made : `\u2068${made}${CLOSE.repeat(open)}${CLOSE}`;
}

/** Makes an element that shows a text of others by the text's own direction, without turning what stands beside it. */
export function foreign(text, tag = "bdi") {
  const made = document.createElement(tag);
  made.dir = "auto";
  [made.textContent] = contained(text);
  return made;
}
