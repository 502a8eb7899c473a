"""tls_httpd.py NAME ADDRESS PORT CERTIFICATE KEY [VERSION]: answers HTTPS requests with its name; by TLS up to VERSION (1.2)."""

import http.server
import ssl
import sys

name, address, port, certificate, key = sys.argv[1:6]


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
if sys.argv[6:] == ["1.2"]:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
server = http.server.ThreadingHTTPServer((address, int(port)), Answer)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("listening", flush=True)
server.serve_forever()
