/** What is wrong now, in words, the worst first, each with the next step: what `shoal check` finds. */

import type { Alert, Alerts } from "../api/types";
import { useLive } from "../api/use";
import { plural } from "../format";
import type { Health } from "../graph/model";
import { Empty, Mark, Partial, Trouble, Waiting } from "../parts/basics";
import { link } from "../router";

export const ALERTS = "/alerts?limit=1000";
const HEALTH: Record<Alert["severity"], Health> = { error: "bad", warning: "warn", info: "idle" };

export function AlertsView() {
  const seen = useLive<Alerts>(ALERTS, 5);
  const alerts = seen.body?.items;
  if (!alerts) return <Waiting problem={seen.problem} what="what is wrong" />;
  return (
    <section>
      <h1>Alerts</h1>
      {seen.problem && <Trouble problem={seen.problem} />}
      <Partial missing={seen.body?.missing} asked={seen.body?.asked} />
      {alerts.length === 0 ? (
        <Empty>Nothing is wrong, as far as {plural(seen.body?.asked ?? 1, "agent")} can tell.</Empty>
      ) : (
        <ol class="alerts">
          {alerts.map((each) => (
            <li key={`${each.id} ${each.where} ${each.what}`} class={`card ${HEALTH[each.severity]}`}>
              <h2>
                <Mark health={HEALTH[each.severity]}>{each.severity}</Mark> <Where text={each.where} />
              </h2>
              <p>{each.what}</p>
              {each.next && (
                <p class="next">
                  <strong>Next:</strong> {each.next}
                </p>
              )}
              <p class="small">
                {each.id} · {each.hosts.length === 0 ? "seen in etcd" : `said by ${each.hosts.slice(0, 5).join(", ")}`}
                {each.hosts.length > 5 ? ` and ${each.hosts.length - 5} more` : ""}
              </p>
            </li>
          ))}
        </ol>
      )}
    </section>
  );
}

/** What it is about; a link, where there is a view of it. */
function Where({ text }: { text: string }) {
  const to = viewOf(text);
  return to ? <a href={to}>{text}</a> : <>{text}</>;
}

/** `pets.production`, or an instance of it; `route/pets.production $.routes[0]`. Kinds have no dot, and services have one. */
export function viewOf(text: string): string | undefined {
  const [name = ""] = text.split(" ");
  const service = /^([a-z0-9][a-z0-9-]*(?:\.[a-z0-9][a-z0-9-]*)+)(?:\/[^/]+)?$/.exec(name)?.[1];
  if (service) return link(["service", service]);
  const [, audit, kind, pattern] = /^(audits\/)?([a-z][a-z_-]*)\/([a-z0-9.*-]+)$/.exec(name) ?? [];
  return kind && pattern ? link(["policies", kind, pattern], { mode: audit ? "audit" : "" }) : undefined;
}
