"""
Health over HTTP: an ASGI app for a web framework that is there anyway, and a small server of its own.

It needs nothing but the standard library. ``/metrics`` needs prometheus-client, and says so.
"""

from shockproof.endpoints.asgi import health_app
from shockproof.endpoints.server import serve
from shockproof.endpoints.unix_socket import serve_socket

__all__ = ["health_app", "serve", "serve_socket"]
