"""Rolling upgrades: the last release and a build that comes next, side by side on a real Kafka.

`tagged` finds the release, `next_build` runs the working tree with what a later version may add,
and `rollout` replaces one by the other and goes back, under load. `python -m tests.upgrade` repeats
it at random.
"""
