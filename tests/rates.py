"""No rates and no budgets of users: load in tests and benchmarks comes from a few users. Tests of
rates set their own.
"""

import json
from typing import Final

NO_RATES: Final = json.dumps(
    {
        name: {"user_per_s": 0}
        for name in (
            "danmaku",
            "gift",
            "like",
            "red_packet",
            "coupon",
            "goods",
            "announcement",
            "enter",
            "leave",
            "custom",
            "package",
            "act",
        )
    }
)
UNLIMITED: Final = {"RATES": NO_RATES, "USER_REQUESTS_PER_S": "0", "USER_ENTRIES_PER_S": "0"}
