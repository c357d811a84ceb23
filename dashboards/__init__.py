"""Grafana dashboards, Prometheus rules and alerts, generated from the catalog of metrics.

Called by `python -m dashboards.generate`, and by `devstack.prometheus` for a live Prometheus.
"""
