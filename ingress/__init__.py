"""The ingress: checks what users send over HTTP and writes it to `uplink`.

An interaction passes the modules in this order: `app` (HTTP, token), `requests` (form), then,
called by `admission`, `permissions`, `room_policy`, `rate_limits`, `slow_mode`, `words`, `review`
and `log`; `responses` has the answer. A command of a host or operator passes `app`,
`command_requests` (form) and `moderation_api` (permissions, rate), which calls `moderation`,
`announcements` or `room_status`. `auto_moderation` gives commands itself, by its count of
`offences`.
"""
