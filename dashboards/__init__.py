"""Grafana dashboards, Prometheus rules and alerts, generated from the catalog of metrics.

`python -m dashboards.generate` writes the files; `devstack.prometheus` runs a Prometheus with them.
"""
