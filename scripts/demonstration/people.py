"""The demo's scene about people: haxor69 wants to buy a lamp. Whoever signs tokens here is made up on the spot."""

from __future__ import annotations

import base64
import http.client
import json
import time
import warnings
from typing import TYPE_CHECKING, Any

from joserfc import jwk, jws

if TYPE_CHECKING:
    from story import Story

SHOP = "lampshop.production"
POLICIES = "/shoal/default/policies"
ISSUER = "https://login.example.com"


def lamp(story: Story) -> None:
    """Tokens that count and such that do not, who may buy, and who gets the new version."""
    tell, stage = story.tell, story.stage
    tell.scene("haxor69 wants to buy a lamp. Who people are is said by tokens, and what they may by rules.")
    alpha, beta = stage.hosts
    for version, name in (("v1", "l1"), ("v2", "l2")):
        stage.start_service(SHOP, beta, version, name)
    stage.await_instances(SHOP, 2)
    key = jwk.OKPKey.generate_key("Ed25519")
    issuer = {
        "issuer": ISSUER,
        "audiences": ["lamps"],
        "algorithms": ["EdDSA"],
        "jwks": {"keys": [key.as_dict(private=False)]},
    }
    story.put(f"{POLICIES}/authn/{SHOP}", {"providers": [issuer], "forward": False, "headers": {"x-user": "sub"}})
    rules = [
        {"name": "not haxor69", "deny": "anybody", "match": {"claims": {"sub": "haxor69"}}},
        {"name": "customers", "allow": "anybody"},
    ]
    story.put(f"{POLICIES}/authz/{SHOP}", {"rules": rules})

    def buys(token: str) -> tuple[int, dict[str, Any]]:
        return buy(alpha.address, alpha.outbound, token)

    forged = signed(jwk.OKPKey.generate_key("Ed25519"), sub="ann")
    refused = [buys(token)[0] for token in ("", unsigned(sub="ann"), forged)]
    tell.promise(refused == [401] * 3, f"no token, one with `alg: none`, a forged one: {refused}")
    status, answer = buys(signed(key, sub="haxor69"))
    hidden = "haxor69" not in json.dumps(answer)
    tell.promise(status == 403 and hidden, f"haxor69, whose token is a good one: {status}, and no word of why")
    tell.command(f"shoal explain --claim sub=haxor69 GET http://{SHOP}/lamps/7")
    told = stage.shoal("explain", "--claim", "sub=haxor69", "GET", f"http://{SHOP}/lamps/7")
    line = next((line for line in told.splitlines() if "not haxor69" in line), "nothing")
    tell.promise("denied by not haxor69" in line, " ".join(line.split()))
    status, answer = buys(signed(key, sub="ann"))
    headers = answer.get("headers", {})
    tell.promise(
        status == 200 and headers.get("x-user") == "ann" and "authorization" not in headers,
        f"ann gets a lamp: {status}; her instance sees x-user: {headers.get('x-user')}, and no token",
    )

    canary = {"match": {"claims": {"tier": "free"}}, "split": [{"version": "v2"}]}
    story.put(f"{POLICIES}/route/{SHOP}", {"rules": [canary, {"split": [{"version": "v1"}]}]})
    got = {
        tier: {str(buys(signed(key, sub="ann", tier=tier))[1].get("version")) for _ in range(10)}
        for tier in ("free", "gold")
    }
    words = ", ".join([f"tier {tier} gets {' and '.join(sorted(seen))}" for tier, seen in got.items()])
    tell.promise(got == {"free": {"v2"}, "gold": {"v1"}}, f"a canary by claim: {words}")


def signed(key: Any, **claims: Any) -> str:
    """A token, in the issuer's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RFC 9864 would rather call the algorithm Ed25519
        return str(jws.serialize_compact({"alg": "EdDSA"}, json.dumps(_claims(claims)), key, algorithms=["EdDSA"]))


def unsigned(**claims: Any) -> str:
    """One that nobody has signed, and that says so."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({"alg": "none"}, _claims(claims))]
    return b".".join(part.rstrip(b"=") for part in parts).decode() + "."


def _claims(more: dict[str, Any]) -> dict[str, Any]:
    return {"iss": ISSUER, "aud": "lamps", "exp": int(time.time()) + 600, **more}


def buy(address: str, port: int, token: str) -> tuple[int, dict[str, Any]]:
    """What the shop says to somebody with a token."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    headers = {"host": SHOP, "x-user": "root", **({"authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.request("GET", "/lamps/7", headers=headers)
        response = connection.getresponse()
        found: dict[str, Any] = json.loads(response.read())
        return response.status, found
    finally:
        connection.close()
