"""Print a user token for a live room. pip install 'pyjwt[crypto]'

Arguments: USER NAME [ROLE ROOM...]. Environment: TOKEN_SIGNING_KEY, a file with the private key
in PEM; TOKEN_KEY_ID, its kid in the JWK Set that liveroom has.
"""

import os
import sys
import time
from pathlib import Path

import jwt

user, name, *rest = sys.argv[1:]
role, *rooms = rest or ["viewer"]
now_s = int(time.time())
claims = {"aud": "liveroom", "sub": user, "name": name, "role": role, "iat": now_s, "exp": now_s + 3600}
if rooms:
    claims["rooms"] = rooms
key = Path(os.environ["TOKEN_SIGNING_KEY"]).read_text(encoding="ascii")
print(jwt.encode(claims, key, algorithm="RS256", headers={"kid": os.environ["TOKEN_KEY_ID"]}))
