"""The way in for interactions: checks what users send over HTTP and writes it to `uplink`. Imports
no other service.

An interaction passes the modules in this order: `app` (HTTP, token), `requests` (form), then,
called by `admission`, `permissions`, `room_policy`, `rate_limits`, `words`, `review` and `log`;
`responses` has the answer. Commands of hosts and operators come from `app` to `moderation_api`,
which hands them to `moderation`, `announcements` or `room_status`; `auto_moderation` gives commands
by itself.
"""
