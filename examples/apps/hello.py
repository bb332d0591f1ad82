"""Says hello, from wherever it runs."""

import socket


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello from {socket.gethostname()}, gunicorn\n".encode()]
