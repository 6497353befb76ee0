"""Latency and goodput under arrivals that do not wait for answers, and what batching gains."""
