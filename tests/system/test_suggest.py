"""`shoal authz suggest --records`, with what agents have written of real requests."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.support.chain import Calls
from tests.support.mesh import AgentProcess, running_mesh, until

PETS = "pets.production"


def test_what_is_proposed_lets_pass_what_was_seen_and_nothing_else(tmp_path: Path) -> None:
    """By the access logs of two hosts: each call once, as the instance's agent judges it, whether it came from there or
    from another host. Put as it is nothing is denied; enforced, what was not seen."""
    with running_mesh(tmp_path) as mesh:
        logs = {host: tmp_path / f"{host}.access" for host in ("alpha", "beta")}
        alpha = mesh.agent("alpha", "127.0.0.1", extra=f'workers = 1\naccess_log = "{logs["alpha"]}"')
        beta = mesh.agent("beta", "127.0.0.2", extra=f'workers = 1\naccess_log = "{logs["beta"]}"')
        mesh.instance(alpha)
        rewriting = [{"match": {"path": {"prefix": "/old/"}}, "rewrite": {"path": "/new"}}]
        mesh.put(f"policies/route/{PETS}", {"rules": rewriting})
        mesh.put("policies/log/*.production", {"redact_query": ["token"]})
        proxies = {
            "shop": (alpha, alpha.register("shop.production", 1)["proxy"]),
            "web": (beta, beta.register("web.production", 2)["proxy"]),
        }
        mesh.shoal("wait")

        def ask(who: str, *paths: str) -> list[int]:
            return trio.run(_asked, *proxies[who], paths)

        seen = ("/cats/1?token=secret", "/cats/27")
        assert ask("shop", *seen) == ask("web", *seen) == [200, 200]
        assert ask("web", "/old/dogs") == [200]
        assert beta.ask(PETS, "/status/404").status == 404 and alpha.ask(PETS, "/anybody", "POST").status == 200
        until("their records", lambda: [log.read_text().count("\n") for log in logs.values()] == [7, 4])
        assert "secret" not in "".join(log.read_text() for log in logs.values())

        words = [word for log in logs.values() for word in ("--records", str(log))]
        done = mesh.shoal("authz", "suggest", PETS, *words)
        assert done.stderr == "6 requests read; passed over: 2 lines of others, not served, or no records in JSON\n"
        proposed = tmp_path / "pets.yaml"
        proposed.write_text(done.stdout)
        assert [line for line in done.stdout.splitlines() if line.startswith("- ")] == [
            '- {"allow": ["shop.production", "web.production"], "match": {"method": ["GET"], "path": {"template": '
            '"/cats/{id}"}}}  # 4 requests',
            '- {"allow": ["web.production"], "match": {"method": ["GET"], "path": {"exact": "/new/dogs"}}}  '
            "# 1 request",
            '- {"allow": "anonymous", "match": {"method": ["POST"], "path": {"exact": "/anybody"}}}  # 1 request '
            "without credentials: can these callers be told apart?",
        ]
        mesh.shoal("policy", "put", str(proposed))
        mesh.shoal("wait")
        assert ask("shop", "/dogs", *seen) == [200, 200, 200]
        proposed.write_text(done.stdout.replace("mode: audit\n", ""))
        mesh.shoal("policy", "put", str(proposed))
        mesh.shoal("wait")
        assert ask("shop", *seen, "/cats/1/x", "/new/dogs") == [200, 200, 403, 403]
        assert ask("web", *seen, "/old/dogs", "/dogs") == [200, 200, 200, 403]
        assert alpha.ask(PETS, "/anybody", "POST").status == 200 and beta.ask(PETS, "/anybody").status == 403
        graph = mesh.shoal("-o", "json", "authz", "graph", PETS).stdout
        assert '"shop.production"' in graph and '"seen": "seen"' in graph and '"never"' not in graph


async def _asked(agent: AgentProcess, proxy: str, paths: tuple[str, ...]) -> list[int]:
    who = Calls(agent, proxy)
    found = [await who.get(PETS, path) for path in paths]
    await who.close()
    return found
