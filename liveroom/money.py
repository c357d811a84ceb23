"""Prices in the smallest unit of their currency, as people read them. Pure.

`viewer/web/money.js` has the same table.
"""

from typing import Final

USUAL_DIGITS: Final = 2
# ISO 4217: the currencies whose minor unit is not a hundredth, and codes that have none.
DIGITS: Final = {
    code: digits
    for digits, codes in (
        (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
        (0, "XAD XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX"),
        (3, "BHD IQD JOD KWD LYD OMR TND"),
        (4, "CLF UYW"),
    )
    for code in codes.split()
}


def price_text(price: int, currency: str) -> str:
    """Return a price with its currency, such as `12.00 CNY`, `1200 JPY` or `1.500 KWD`.

    `price`: in the smallest unit. A currency that ISO 4217 does not know has two digits.
    """
    digits = DIGITS.get(currency, USUAL_DIGITS)
    whole, rest = divmod(price, 10**digits)
    return f"{whole}{f'.{rest:0{digits}}' if digits else ''} {currency}".rstrip()
