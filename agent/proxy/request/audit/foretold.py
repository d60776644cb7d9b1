# mypyc: compiled
"""What the audit log would be told of a request that ends here, for whoever asks beforehand.

Law: it says what `accountable` does: by whom it is recorded, whether always, and whether before it goes on.
"""

from __future__ import annotations

from agent.audit.draft import DENYING
from agent.proxy.phases.verdict import Refuse
from agent.proxy.report.audit import AUTOMATIC_PER_S
from agent.proxy.report.story import Entry, entry
from agent.proxy.table.plan import Plan


def foretold(plan: Plan | None, refuse: Refuse | None, status: int | None) -> Entry | None:
    """`refuse`: what it is answered; None: it is handed on, but where a route answers (`status`), of which nothing is
    foretold. None: no document says anything of it, nor does the law."""
    if refuse is None and status is not None:
        return None
    auditing = plan.auditing if plan is not None else None
    policy = refuse.refusal.policy if refuse is not None else ""
    denied = policy in DENYING
    if auditing is None or plan is None:
        if not denied:
            return None
        reason = (
            f"what is denied always is, up to {AUTOMATIC_PER_S} a second in each worker; no audit document says more"
        )
        return entry(None, "record", "audit", f"recorded as {policy}.denied", reason)
    by = plan.policies.get("audit")
    event = f"{policy}.denied" if denied else "request.allowed" if refuse is None else "request.refused"
    share = 1.0 if refuse is not None else auditing.share
    if not denied and not auditing.everything:
        return entry(by, "record", "audit", "not recorded", "requests: denied, and it is not")
    decision = f"recorded as {event}" if share >= 1.0 else f"{share:g} of such are recorded as {event}"
    if auditing.sync:
        reason = "on disk before the instance sees it" if refuse is None else "on disk before it is answered"
        if auditing.denies and refuse is None:
            reason += ", or it is refused"
    else:
        reason = "behind the request"
    if by is not None:
        reason += "; by " + ", ".join([f"audit/{level.key}" for level in by.levels])
    return entry(by, "record", "audit", decision, reason)
