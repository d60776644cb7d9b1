/** Its instances, how they are, and since when. */

import { query } from "../../api/http";
import type { Checked, Instance, Page, ServiceDetail } from "../../api/types";
import { useLive } from "../../api/use";
import { away, plural, seconds } from "../../format";
import type { Health } from "../../graph/model";
import { Empty, Mark, Partial } from "../../parts/basics";
import { Table } from "../../parts/table";
import { link } from "../../router";

const HEALTH: Record<string, Health> = { healthy: "good", unhealthy: "bad", draining: "warn", suspect: "warn" };

export function InstancesTab({ detail }: { detail: ServiceDetail }) {
  const now = Date.now();
  const checks = useLive<Page<Checked>>(query("/checks", { scope: "mesh", service: detail.name, limit: 1000 }), 5).body;
  // By the agent that has it and its id: as the table names instances, with or without its host.
  const checked = new Map((checks?.items ?? []).map((each) => [`${each.host} ${each.id.split("@")[0]}`, each]));
  const imported = detail.in_force.find((each) => each.kind === "import");
  if (imported && detail.members.length === 0) return <Elsewhere document={imported.document} />;
  return (
    <>
      <Partial missing={checks?.missing} asked={checks?.asked} />
      {detail.members.length < detail.instances && <p class="partial">{plural(detail.members.length, "instance")} of {detail.instances} are shown.</p>}
      <Table
        label="Instances"
        rows={detail.members}
        id={(each) => `${each.agent} ${each.id}`}
        why="It has no instance: `shoal run` or `shoal register` beside an agent makes one."
        columns={[
          { name: "Instance", by: (each) => each.id, show: (each) => each.id },
          { name: "State", by: (each) => each.state, show: (each) => <Mark health={HEALTH[each.state] ?? "idle"}>{each.state}</Mark> },
          { name: "Since", by: (each) => each.since, show: (each) => <time dateTime={each.since}>{away(each.since, now)}</time> },
          { name: "Why", show: (each) => each.reason },
          { name: "Last check", show: (each) => <LastCheck of={checked.get(`${each.agent} ${each.id.split("@")[0]}`)} now={now} /> },
          { name: "Version", by: (each) => each.version, show: (each) => each.version },
          { name: "Agent", by: (each) => each.agent, show: (each: Instance) => (each.agent ? <a href={link(["agents", each.agent])}>{each.agent}</a> : "none") },
          { name: "Zone", by: (each) => each.zone, show: (each) => each.zone },
          { name: "Address", by: (each) => each.address, show: (each) => `${each.address}:${each.port}` },
          { name: "Weight", right: true, by: (each) => each.weight, show: (each) => each.weight },
        ]}
      />
    </>
  );
}

function LastCheck({ of, now }: { of: Checked | undefined; now: number }) {
  if (!of) return <>{""}</>;
  if (of.unable) return <Mark health="warn">cannot be checked: {of.unable}</Mark>;
  if (of.at === null) return <>none so far ({of.how})</>;
  const when = away(new Date(of.at * 1000).toISOString(), now) || "now";
  return (
    <Mark health={of.ok ? "good" : "bad"}>
      {of.how}, {when}
      {of.how === "ttl" ? "" : ` in ${seconds(of.took_s)}`}
      {of.reason ? `: ${of.reason}` : ""}
    </Mark>
  );
}

/** Where a service runs that another mesh has: its instances are known there alone. */
function Elsewhere({ document }: { document: unknown }) {
  const said = (typeof document === "object" && document !== null ? document : {}) as { trust_domain?: string; remote_service?: string; gateways?: string[] };
  return (
    <Empty>
      It is {said.remote_service} of the trust domain {said.trust_domain}, which knows its instances. Requests go to its gateways: {(said.gateways ?? []).join(", ")}.
    </Empty>
  );
}
