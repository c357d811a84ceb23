// Prices in the smallest unit of their currency, as people read them. liveroom/money.py has the same table. Pure.

const DIGITS = new Map();
// ISO 4217: the currencies whose minor unit is not a hundredth, and codes that have none.
for (const [digits, codes] of [
  [0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"],
  [0, "XAD XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX"],
  [3, "BHD IQD JOD KWD LYD OMR TND"],
  [4, "CLF UYW"],
])
  for (const code of codes.split(" ")) DIGITS.set(code, digits);
const USUAL_DIGITS = 2;

/** Returns a price with its currency; empty where there is none. */
export function priceText(price, currency) {
  if (!Number.isSafeInteger(price) || price <= 0) return "";
  const digits = DIGITS.get(currency) ?? USUAL_DIGITS;
  const text = String(price).padStart(digits + 1, "0"); // not a division: a large price has more digits than a fraction keeps
  const whole = text.slice(0, text.length - digits);
  return `${digits ? `${whole}.${text.slice(-digits)}` : whole} ${currency}`.trimEnd();
}
