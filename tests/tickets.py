"""Keys of entry tickets for tests: two that count, and one that nobody knows."""

from typing import Final

from liveroom.ticket_keys import SEED_BYTES, make_private_key, read_public_keys, write_private_keys, write_public_keys

NEW: Final = make_private_key("k2", b"b" * SEED_BYTES)
OLD: Final = make_private_key("k1", b"a" * SEED_BYTES)
FOREIGN: Final = make_private_key("k9", b"c" * SEED_BYTES)
PRIVATE_KEYS: Final = write_private_keys([NEW, OLD])
PUBLIC_KEYS: Final = write_public_keys([NEW, OLD])
KEYS: Final = read_public_keys(PUBLIC_KEYS)
SIGNERS: Final = {key.id: key.signer() for key in (NEW, OLD, FOREIGN)}
