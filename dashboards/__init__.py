"""What SREs look at: Grafana dashboards, Prometheus rules and alerts, made from the contract's
names.
"""
