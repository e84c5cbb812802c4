"""The Kubernetes API as a port: a compare-and-swap store, a reflector on top of it, events.

Only this package imports `kubernetes`, and of it only authentication, TLS and connection pooling (`transport.py`).
"""
