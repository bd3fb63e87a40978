"""A reverse proxy that chooses the service by the host name of the request. It retries nothing."""

import contextlib
import http.client
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.support.waiting import LIMIT_SECONDS, join


@contextlib.contextmanager
def proxying(ports: Mapping[str, str]) -> Iterator[str]:
    """The port of the proxy. It forwards the requests for a host name to a port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_PUT()

        def do_PUT(self) -> None:
            """Forward one request and its response."""
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            backend = http.client.HTTPConnection(f"127.0.0.1:{ports[self.headers['Host']]}", timeout=LIMIT_SECONDS)
            with contextlib.closing(backend):
                backend.request(self.command, self.path, body, dict(self.headers))
                response = backend.getresponse()
                content = response.read()
            self.send_response(response.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            join(thread)
