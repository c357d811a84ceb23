"""What runs a whole system on one machine: the local Kafka, the services as child processes,
Prometheus, the pages.
"""
