"""Runs a whole system on one machine: the local Kafka, the services, Prometheus, the pages."""
