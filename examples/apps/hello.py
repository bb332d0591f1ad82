"""Says hello, from wherever it runs."""

import socket


def app(environ, start_response):
    # Whom a proxy has asked for, where one has.
    client = environ.get("HTTP_X_FORWARDED_FOR")
    whom = f" for {client}" if client else ""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello from {socket.gethostname()}, gunicorn{whom}\n".encode()]
