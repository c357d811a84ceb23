"""Hypothesis for these tests: no time limit per example (a busy machine is no defect), examples
kept nowhere.
"""

from hypothesis import settings

settings.register_profile("liveroom", deadline=None, database=None)
settings.load_profile("liveroom")
