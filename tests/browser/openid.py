"""A small OpenID provider for tests: it logs in whoever the test says, without asking."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey


@dataclass
class Provider:
    """`user` are the claims of the next login; `logins` counts them."""

    url: str = ""
    user: dict = field(default_factory=dict)
    logins: int = 0
    codes: dict[str, tuple[str, dict]] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "test", "use": "sig"}))

    def token(self, code: str) -> dict:
        nonce, claims = self.codes.pop(code)
        now = int(time.time())
        body = {"iss": self.url, "aud": "dashboard", "iat": now, "exp": now + 600, "nonce": nonce, **claims}
        signed = jwt.encode({"alg": "RS256", "kid": "test"}, body, self.key)
        return {"access_token": "none", "token_type": "Bearer", "expires_in": 600, "id_token": signed}


@contextmanager
def serving() -> Iterator[Provider]:
    """The provider on a free port of this machine."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            address = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            if address.path == "/.well-known/openid-configuration":
                self._json(
                    {
                        "issuer": provider.url,
                        "authorization_endpoint": f"{provider.url}/authorize",
                        "token_endpoint": f"{provider.url}/token",
                        "jwks_uri": f"{provider.url}/jwks",
                        "response_types_supported": ["code"],
                        "subject_types_supported": ["public"],
                        "id_token_signing_alg_values_supported": ["RS256"],
                    }
                )
            elif address.path == "/jwks":
                self._json({"keys": [provider.key.as_dict(private=False)]})
            elif address.path == "/authorize":
                provider.logins += 1
                code = base64.urlsafe_b64encode(f"{provider.logins}".encode()).decode()
                provider.codes[code] = (asked.get("nonce", ""), dict(provider.user))
                self.send_response(302)
                self.send_header(
                    "Location",
                    f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}",
                )
                self.end_headers()
            else:
                self.send_error(404)

        def do_POST(self):
            size = int(self.headers.get("Content-Length", 0))
            asked = parse_qs(self.rfile.read(size).decode())
            self._json(provider.token(asked["code"][0]))

        def _json(self, record: dict):
            data = json.dumps(record).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
