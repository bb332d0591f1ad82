"""Counts its visitors in Redis, which is another service: its file says that this one may begin to talk to it."""

import socket


def app(environ, start_response):
    with socket.create_connection(("redis", 6379), timeout=5) as redis:
        redis.sendall(b"INCR visits\r\n")
        count = redis.makefile("rb").readline().decode().strip().lstrip(":")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"visitor {count}\n".encode()]
