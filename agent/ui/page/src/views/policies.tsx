/** Every document, in force or only watched; and of one, what it says, who put it, and which services it touches. */

import type { JudgedRow, Page, Policy, Refused, Service } from "../api/types";
import { query } from "../api/http";
import { useLive } from "../api/use";
import { plural } from "../format";
import { Choice, Empty, Json, Mark, Search, Trouble, Waiting } from "../parts/basics";
import { Table } from "../parts/table";
import { link, place, say } from "../router";

export function PoliciesView() {
  const [, kind, pattern] = place.value.parts;
  return kind && pattern ? <OnePolicy kind={kind} pattern={pattern} mode={place.value.query.get("mode") ?? "enforce"} /> : <AllPolicies />;
}

/** Services whose documents of this kind have this one among them, as the mesh has resolved it. */
export function touched(services: readonly Service[], kind: string, pattern: string, mode: string): string[] {
  return services.filter((each) => each.policies.some((ref) => ref.kind === kind && ref.pattern === pattern && ref.mode === mode)).map((each) => each.name);
}

function AllPolicies() {
  const words = place.value.query;
  const find = (words.get("find") ?? "").trim().toLowerCase();
  const wanted = words.get("kind") ?? "";
  const seen = useLive<Page<Policy>>("/policies?limit=1000", 2);
  const known = useLive<Page<Service>>("/services?limit=1000", 2).body;
  const refused = useLive<Page<Refused>>(REFUSED, 5).body?.items ?? [];
  const services = known?.items ?? [];
  const items = seen.body?.items;
  if (!items) return <Waiting problem={seen.problem} what="documents" />;
  const kinds = [...new Set(items.map((each) => each.kind))].sort();
  const counts = new Map<string, number>();
  for (const service of services) {
    for (const { kind, pattern, mode } of service.policies) counts.set(`${mode} ${kind} ${pattern}`, (counts.get(`${mode} ${kind} ${pattern}`) ?? 0) + 1);
  }
  const touches = (each: Policy): number => counts.get(`${each.mode} ${each.kind} ${each.pattern}`) ?? 0;
  const rows = items.filter((each) => (!wanted || each.kind === wanted) && (!find || `${each.kind}/${each.pattern}`.includes(find)));
  return (
    <section>
      <h1>Policies</h1>
      <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        <Search label="Find a kind or a name" value={words.get("find") ?? ""} say={(text) => say({ find: text })} />
        <Choice label="Kind" value={wanted} of={[["", "all"], ...kinds.map((each) => [each, each] as const)]} say={(value) => say({ kind: value })} />
      </form>
      {seen.problem && <Trouble problem={seen.problem} />}
      <p class="said" role="status">
        {plural(rows.length, "document")} of {seen.body?.total ?? items.length}.{known && known.total > services.length ? ` Whom they touch is told of the first ${services.length} services by name.` : ""}
      </p>
      <RefusedOnes rows={byDocument(refused).filter((each) => (!wanted || each.kind === wanted) && (!find || `${each.kind}/${each.pattern}`.includes(find)))} />
      <Table
        label="Documents"
        rows={rows}
        id={(each) => `${each.mode} ${each.kind} ${each.pattern}`}
        why={items.length === 0 ? "There is no document: defaults hold everywhere. `shoal policy put FILE` puts one." : "No document is as the filters say: take one of them away."}
        columns={[
          {
            name: "Document",
            by: (each) => `${each.kind} ${each.pattern}`,
            show: (each) => (
              <a href={link(["policies", each.kind, each.pattern], { mode: each.mode === "audit" ? "audit" : "" })}>
                {each.kind}/{each.pattern}
              </a>
            ),
          },
          { name: "State", by: (each) => each.mode, show: (each) => <Mark health={each.mode === "audit" ? "idle" : "good"}>{each.mode === "audit" ? "only watched" : "in force"}</Mark> },
          { name: "Touches", right: true, by: touches, show: (each) => plural(touches(each), "service") },
          { name: "Revision", right: true, by: (each) => each.revision, show: (each) => each.revision },
          { name: "By", show: (each) => word(each.document, "by") },
          { name: "Why", show: (each) => word(each.document, "reason") },
        ]}
      />
    </section>
  );
}

export const REFUSED = "/policies/refused?scope=mesh&limit=1000";

/** A document, and the hosts that refuse it. */
export interface RefusedBy extends Refused {
  hosts: string[];
}

/** What several hosts say of the same document is one. */
export function byDocument(rows: readonly Refused[]): RefusedBy[] {
  const found = new Map<string, RefusedBy>();
  for (const row of rows) {
    const id = `${row.watched} ${row.kind} ${row.pattern} ${row.revision} ${row.path} ${row.reason}`;
    const known = found.get(id);
    if (known) known.hosts.push(row.host);
    else found.set(id, { ...row, hosts: [row.host] });
  }
  return [...found.values()];
}

export function RefusedOnes({ rows }: { rows: readonly RefusedBy[] }) {
  if (rows.length === 0) return null;
  return (
    <>
      <h2>Refused</h2>
      <ul class="refused">
        {rows.map((each) => (
          <li key={`${each.watched} ${each.kind} ${each.pattern} ${each.path}`}>
            <Mark health="bad">refused</Mark>{" "}
            <a href={link(["policies", each.kind, each.pattern], { mode: each.watched ? "audit" : "" })}>
              {each.kind}/{each.pattern}
            </a>{" "}
            @{each.revision}: <code>{each.path}</code> {each.reason}. {instead(each)} Said by {each.hosts.slice(0, 5).join(", ")}
            {each.hosts.length > 5 ? ` and ${each.hosts.length - 5} more` : ""}.
          </li>
        ))}
      </ul>
    </>
  );
}

/** What came of it so far that it is only watched. */
export function Judged({ kind, pattern }: { kind: string; pattern: string }) {
  const seen = useLive<Page<JudgedRow>>("/judged?scope=mesh&limit=1000", 5);
  const rows = together((seen.body?.items ?? []).filter((each) => each.kind === kind && each.document === pattern));
  if (!seen.body) return <Waiting problem={seen.problem} what="what it would have done" />;
  return (
    <Table
      label="What it would have done"
      rows={rows}
      id={(each) => `${each.service} ${each.done} ${each.would}`}
      why="No request has been judged by it since the agents began."
      sorted={{ name: "Requests", down: true }}
      columns={[
        { name: "Service", by: (each) => each.service, show: (each) => <a href={link(["service", each.service])}>{each.service}</a> },
        { name: "Requests", right: true, by: (each) => each.requests, show: (each) => each.requests },
        { name: "Were", by: (each) => each.done, show: (each) => each.done },
        { name: "By it would have been", by: (each) => each.would, show: (each) => <Mark health={each.would === each.done ? "good" : "warn"}>{each.would}</Mark> },
      ]}
    />
  );
}

/** Of all hosts. */
export function together(rows: readonly JudgedRow[]): JudgedRow[] {
  const found = new Map<string, JudgedRow>();
  for (const row of rows) {
    const id = `${row.service} ${row.kind} ${row.document} ${row.done} ${row.would}`;
    found.set(id, { ...row, requests: (found.get(id)?.requests ?? 0) + row.requests });
  }
  return [...found.values()];
}

/** Whether a pattern is for a service: by its name, its namespace, or everybody. */
export function covers(pattern: string, service: string): boolean {
  return pattern === "*" || pattern === service || (pattern.startsWith("*.") && service.endsWith(pattern.slice(1)));
}

/** What holds in its place. */
export function instead(refused: Refused): string {
  if (refused.last_good > 0) return `That of revision ${refused.last_good} stays in force.`;
  if (refused.closed) return "What was before it is not known, so requests are refused.";
  return "Nothing is in force in its place.";
}

function OnePolicy({ kind, pattern, mode }: { kind: string; pattern: string; mode: string }) {
  const seen = useLive<Policy>(`/policies/${encodeURIComponent(kind)}/${encodeURIComponent(pattern)}${query("", { mode })}`, 2);
  const found = seen.problem ? undefined : seen.body;
  const services = useLive<Page<Service>>("/services?limit=1000", 2);
  const refused = byDocument(useLive<Page<Refused>>(REFUSED, 5).body?.items ?? []).filter((each) => each.kind === kind && each.pattern === pattern && each.watched === (mode === "audit"));
  const names = services.body ? touched(services.body.items, kind, pattern, mode) : null;
  return (
    <section>
      <p class="crumbs">
        <a href={link(["policies"])}>Policies</a>
      </p>
      <h1>
        {kind}/{pattern}
      </h1>
      {seen.problem && seen.problem.status !== 404 && <Trouble problem={seen.problem} />}
      {!found && !seen.problem && <Waiting problem={undefined} what="the document" />}
      <RefusedOnes rows={refused} />
      {seen.problem?.status === 404 && refused.length === 0 && <Empty>No such document is {mode === "audit" ? "watched" : "in force"}, and none of this name is refused.</Empty>}
      {found && (
        <>
          <p class="said">
            {mode === "audit" ? "Only watched" : "In force"}, revision {found.revision}
            {word(found.document, "by") && `, by ${word(found.document, "by")}`}
            {word(found.document, "reason") && `: ${word(found.document, "reason")}`}
          </p>
          {mode === "audit" && <Judged kind={kind} pattern={pattern} />}
          <Json value={found.document} />
          <a class="button" href={link(["why"], { url: names?.[0] ? `http://${names[0]}/` : "", kind, pattern, mode: mode === "audit" ? "audit" : "" })}>
            See what a change of it would do
          </a>
          <h2>Whom it touches</h2>
          {services.body && services.body.total > services.body.items.length && (
            <p class="partial">
              Of the first {services.body.items.length} services by name, of {services.body.total}.
            </p>
          )}
          {names === null ? (
            <Waiting problem={services.problem} what="services" />
          ) : names.length === 0 ? (
            <Empty>Nobody of those: no service has this name, or a document that is more specific stands before it everywhere.</Empty>
          ) : (
            <ul class="names">
              {names.slice(0, 500).map((each) => (
                <li key={each}>
                  <a href={link(["service", each], { tab: "policies" })}>{each}</a>
                </li>
              ))}
              {names.length > 500 && <li>and {names.length - 500} more</li>}
            </ul>
          )}
        </>
      )}
    </section>
  );
}

function word(document: unknown, name: string): string {
  const found = typeof document === "object" && document !== null ? (document as Record<string, unknown>)[name] : undefined;
  return typeof found === "string" ? found : "";
}
