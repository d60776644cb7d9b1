/** Agents: what each runs, how far the last changes have come, certificates and their ends, refused documents. */

import type { Agent, Alerts, Change, Mesh, Page, Refused } from "../api/types";
import { useLive } from "../api/use";
import { away, moment, plural, seconds } from "../format";
import { Json, Mark, Partial, Trouble, Waiting } from "../parts/basics";
import { Source } from "../parts/source";
import { Table } from "../parts/table";
import { link, place } from "../router";
import { ALERTS } from "./alerts";
import { byDocument, instead, REFUSED } from "./policies";

/** Of the life of a certificate that is left, in hours, below which somebody should look. */
const SOON_H = 4;

export function AgentsView() {
  const host = place.value.parts[1];
  return host ? <OneAgent host={host} /> : <AllAgents />;
}

function AllAgents() {
  const agents = useLive<Page<Agent>>("/agents?scope=mesh&limit=1000", 3);
  const refused = useLive<Page<Refused>>(REFUSED, 5);
  const mesh = useLive<Mesh>("/mesh", 2);
  const lost = useLive<Alerts>(ALERTS, 5).body?.items.filter((each) => each.id === "agent-lost") ?? [];
  const items = agents.body?.items;
  if (!items) return <Waiting problem={agents.problem} what="agents" />;
  const newest = Math.max(agents.body?.revision ?? 0, ...items.map((each) => each.runs ?? 0));
  const current = items.filter((each) => each.runs === newest).length;
  return (
    <section>
      <h1>Agents</h1>
      <p class="said" role="status">
        {plural(items.length, "agent")}
        {lost.length ? `, and ${lost.length} that ${lost.length > 1 ? "were" : "was"} lost` : ""}; the newest change seen is revision {newest}: {current === items.length ? `every ${lost.length ? "other " : ""}agent runs it` : `${current} of ${items.length} run it`}
        {items.some((each) => each.etcd_connected === false) ? ", as far as those have heard that are without etcd" : ""}
      </p>
      {mesh.body && mesh.body.age_s !== null && <p class="small">{`${mesh.body.host} heard of etcd ${mesh.body.age_s.toFixed(1)} s ago`}</p>}
      {mesh.body && !mesh.body.etcd_connected && (
        <p class="trouble" role="alert">
          etcd is away for {mesh.body.host}: it serves revision {mesh.body.revision}, and hears of no change
        </p>
      )}
      {lost.map((each) => (
        <p key={each.where} class="said">
          <Mark health="bad">lost</Mark> {each.where}: {each.what}. {each.next}
        </p>
      ))}
      {agents.problem && <Trouble problem={agents.problem} />}
      <Partial missing={agents.body?.missing} asked={agents.body?.asked} />
      <Table
        label="Agents"
        rows={items}
        id={(each) => each.host}
        why="No agent lives: `shoal agent` on a host starts one."
        columns={[
          { name: "Host", by: (each) => each.host, show: (each) => <a href={link(["agents", each.host])}>{each.host}</a> },
          { name: "State", by: (each) => stateOf(each, newest)[1], show: (each) => <Mark health={stateOf(each, newest)[0]}>{stateOf(each, newest)[1]}</Mark> },
          { name: "Runs", right: true, by: (each) => each.runs ?? -1, show: (each) => (each.runs === null ? "–" : each.runs === newest ? each.runs : `${each.runs} (${newest - each.runs} behind)`) },
          { name: "Instances", right: true, by: (each) => each.instances, show: (each) => each.instances },
          { name: "Refused", right: true, by: (each) => each.refused ?? -1, show: (each) => each.refused ?? "–" },
          { name: "Certificate", by: (each) => each.certificate_ends, show: (each) => <Certificate ends={each.certificate_ends} /> },
          { name: "Version", by: (each) => each.version, show: (each) => `${each.version}${each.build ? `, ${each.build}` : ""}` },
          { name: "Zone", by: (each) => each.zone, show: (each) => each.zone },
          { name: "Address", by: (each) => each.address, show: (each) => each.address },
        ]}
      />
      <h2>The last changes</h2>
      <Changes refused={refused.body?.items ?? []} />
      <h2>Documents that are not in force</h2>
      {refused.problem && <Trouble problem={refused.problem} />}
      <Partial missing={refused.body?.missing} asked={refused.body?.asked} />
      <Documents found={refused.body?.items} />
    </section>
  );
}

function stateOf(agent: Agent, newest: number): ["good" | "warn" | "bad", string] {
  if (agent.stopping) return ["warn", "stopping"];
  if (agent.ready === false) return ["bad", "not ready"];
  if (agent.etcd_connected === false) return ["warn", "without etcd"];
  if (agent.runs === null) return ["warn", "does not say"];
  return agent.runs < newest ? ["warn", "behind"] : ["good", "current"];
}

function Certificate({ ends }: { ends: string }) {
  if (!ends) return <>none</>;
  const left = (Date.parse(ends) - Date.now()) / 3_600_000;
  if (Number.isNaN(left)) return <>{ends}</>;
  return <Mark health={left <= 0 ? "bad" : left < SOON_H ? "warn" : "good"}>{left <= 0 ? `ended ${away(ends, Date.now())}` : `ends ${away(ends, Date.now())}`}</Mark>;
}

/** One row a document, whoever refuses it. */
function Documents({ found }: { found: readonly Refused[] | undefined }) {
  if (!found) return <Waiting problem={undefined} what="refused documents" />;
  if (found.length === 0) return <p class="empty">None: every document that is in etcd is in force, as far as the agents say that were heard.</p>;
  return (
    <>
      {byDocument(found).map((each) => (
        <article class="card" key={`${each.watched} ${each.kind}/${each.pattern} ${each.path} ${each.revision}`}>
          <h3>
            {each.kind}/{each.pattern} @{each.revision}
          </h3>
          <p>
            <Mark health={each.closed ? "bad" : "warn"}>
              {each.path}: {each.reason}
            </Mark>
          </p>
          <p>
            {instead(each)} Refused by {someOf(each.hosts)}.
          </p>
          <Source kind={each.kind} pattern={each.pattern} mode={each.watched ? "audit" : "enforce"} path={each.path} />
        </article>
      ))}
    </>
  );
}

/** A change of documents, and how far it is. */
export interface Converging {
  revision: number;
  what: string[];
  at: number;
  /** Whose every worker runs it. */
  done: string[];
  waiting: string[];
  slowest_s: number;
  slowest: string;
}

/** What each agent says of the same revision, together, the latest first; the time is that of who heard first. */
export function converging(changes: readonly Change[]): Converging[] {
  const found = new Map<number, Converging>();
  for (const { host, revision, what, at, took_s } of changes) {
    const row = found.get(revision) ?? { revision, what, at, done: [], waiting: [], slowest_s: 0, slowest: "" };
    row.at = Math.min(row.at, at);
    (took_s === null ? row.waiting : row.done).push(host);
    if (took_s !== null && took_s > row.slowest_s) [row.slowest_s, row.slowest] = [took_s, host];
    found.set(revision, row);
  }
  return [...found.values()].sort((a, b) => b.revision - a.revision);
}

/** How far a change is: what is refused has come to agents, and is in force on none of those that say so. */
export function standing({ revision, done, waiting }: Converging, refused: readonly Refused[]): ["good" | "warn" | "bad", string] {
  const no = [...new Set(refused.filter((each) => each.revision === revision).map((each) => each.host))];
  const yes = done.filter((host) => !no.includes(host));
  if (no.length) return ["bad", `refused by ${someOf(no)}${yes.length ? `, in force on ${yes.length}` : ""}`];
  return waiting.length ? ["warn", `on ${yes.length}, not on ${someOf(waiting)}`] : ["good", `on ${plural(yes.length, "agent")}`];
}

function Changes({ refused }: { refused: readonly Refused[] }) {
  const seen = useLive<Page<Change>>("/changes?scope=mesh&limit=1000", 3);
  if (!seen.body) return <Waiting problem={seen.problem} what="changes" />;
  return (
    <>
      {seen.problem && <Trouble problem={seen.problem} />}
      <Table
        label="The last changes"
        rows={converging(seen.body.items).slice(0, 30)}
        id={(each) => String(each.revision)}
        why="No document was put or removed since these agents began."
        columns={[
          { name: "Revision", right: true, by: (each) => each.revision, show: (each) => each.revision },
          { name: "Documents", show: (each) => each.what.join(", ") },
          { name: "Heard", by: (each) => each.at, show: (each) => moment(each.at) },
          { name: "In force", by: (each) => each.done.length, show: (each) => <Mark health={standing(each, refused)[0]}>{standing(each, refused)[1]}</Mark> },
          { name: "Slowest", right: true, by: (each) => each.slowest_s, show: (each) => (each.slowest ? `${seconds(each.slowest_s)}, ${each.slowest}` : "") },
        ]}
      />
    </>
  );
}

const someOf = (hosts: readonly string[]): string => `${hosts.slice(0, 5).join(", ")}${hosts.length > 5 ? ` and ${hosts.length - 5} more` : ""}`;

function OneAgent({ host }: { host: string }) {
  const state = useLive<Record<string, unknown>>(`/agents/${encodeURIComponent(host)}`, 5);
  const all = useLive<Page<Agent>>("/agents?scope=mesh&limit=1000", 3).body;
  const alerts = useLive<Alerts>(ALERTS, 5).body?.items.filter((each) => each.hosts.includes(host) || each.where.split(" ")[0] === host);
  const row = all?.items.find((each) => each.host === host);
  const newest = Math.max(all?.revision ?? 0, ...(all?.items ?? []).map((each) => each.runs ?? 0));
  return (
    <section>
      <p class="crumbs">
        <a href={link(["agents"])}>Agents</a>
      </p>
      <h1>{host}</h1>
      {state.problem && <Trouble problem={state.problem} />}
      {row && (
        <p class="said">
          <Mark health={stateOf(row, newest)[0]}>{stateOf(row, newest)[1]}</Mark> runs revision {row.runs ?? "unknown"} of {newest}; {plural(row.instances, "instance")}; version {row.version}
          {row.build ? `, ${row.build}` : ""}; certificate: <Certificate ends={row.certificate_ends} />
        </p>
      )}
      <h2>What is wrong here</h2>
      {!alerts ? <Waiting problem={undefined} what="alerts" /> : alerts.length === 0 ? <p class="empty">Nothing that it or etcd says.</p> : (
        <ul>
          {alerts.map((each) => (
            <li key={`${each.id} ${each.where} ${each.what}`}>
              <Mark health={each.severity === "error" ? "bad" : each.severity === "warning" ? "warn" : "idle"}>{each.severity}</Mark> {each.where}: {each.what}. {each.next}
            </li>
          ))}
        </ul>
      )}
      <h2>All that it says</h2>
      {state.body ? (
        <dl class="facts">
          {Object.entries(state.body)
            .filter(([, value]) => value !== "" && value !== null && !(Array.isArray(value) && value.length === 0))
            .map(([name, value]) => (
              <div key={name}>
                <dt>{name.replaceAll("_", " ")}</dt>
                <dd>
                  {typeof value === "object" && value !== null ? (
                    <details>
                      <summary class="tall">show</summary>
                      <Json value={value} />
                    </details>
                  ) : (
                    String(value)
                  )}
                </dd>
              </div>
            ))}
        </dl>
      ) : (
        !state.problem && <Waiting problem={undefined} what={host} />
      )}
    </section>
  );
}
