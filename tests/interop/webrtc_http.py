"""The HTTP half of a WHIP or WHEP client: POST an offer, get an answer, DELETE the session. Standard library only."""

import json
import urllib.parse
import urllib.request


def negotiate(url, offer, token=None):
    """Returns (answer, session URL)."""
    with urllib.request.urlopen(_request(url, "POST", token, offer.encode()), timeout=10) as response:
        if response.status != 201:
            raise RuntimeError(f"POST {url}: {response.status}")
        location = urllib.parse.urljoin(url, response.headers["Location"])
        return response.read().decode(), location


def leave(location, token=None):
    with urllib.request.urlopen(_request(location, "DELETE", token), timeout=10) as response:
        return response.status


def _request(url, method, token, body=None):
    request = urllib.request.Request(url, data=body, method=method)
    if body is not None:
        request.add_header("Content-Type", "application/sdp")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    return request


def report(**values):
    """The line that the test reads."""
    print(json.dumps(values), flush=True)
