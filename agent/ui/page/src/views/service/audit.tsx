/** What the audit logs of all hosts have about a service: for who operates the mesh. */

import { useSignal } from "@preact/signals";
import { post } from "../../api/http";
import { useAsked } from "../../api/asked";
import type { AuditFound } from "../../api/types";
import { moment } from "../../format";
import { me } from "../../me";
import { Choice, Empty, Field, Trouble, Waiting } from "../../parts/basics";
import { Table } from "../../parts/table";

const SPANS = [
  ["3600", "hour"],
  ["86400", "day"],
  ["2592000", "30 days"],
] as const;

export function AuditTab({ name }: { name: string }) {
  const span = useSignal<string>("3600");
  const events = useSignal("");
  const may = me.value?.may.operate === true;
  const seen = useAsked<AuditFound>(may ? `${name} ${span.value} ${events.value}` : null, (over) => {
    const until = Date.now() / 1000;
    return post<AuditFound>("/audit/query", { service: name, since: until - Number(span.value), until, events: events.value ? [events.value] : [], most: 200 }, over);
  });
  if (!may) return <Empty>The audit log is shown to who operates the mesh. `shoal dashboard` opens a page that knows who you are.</Empty>;
  return (
    <>
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <Choice label="The last" value={span.value} of={SPANS} say={(value) => (span.value = value)} />
        <Field label="Event">
          <input value={events.value} placeholder="authz." maxLength={60} onChange={(event) => (events.value = event.currentTarget.value.trim())} />
        </Field>
        <button type="button" onClick={seen.again}>
          Ask again
        </button>
      </form>
      {seen.problem && <Trouble problem={seen.problem} />}
      {seen.body ? <Found found={seen.body} /> : !seen.problem && <Waiting problem={undefined} what="records" />}
    </>
  );
}

/** As the log has it: when, where, what, and what is told of it besides. */
export interface AuditRow {
  at: number;
  host: string;
  event: string;
  who: string;
  what: string;
  by: string;
  record: Record<string, unknown>;
}

const text = (value: unknown): string => (typeof value === "string" ? value : typeof value === "number" ? String(value) : "");

/** Of a record: what people look for first. What has been erased, or kept long enough, is not there. */
export function rowOf(record: Record<string, unknown>): AuditRow {
  const of = (name: string): string => text(record[name]);
  return {
    at: typeof record["at"] === "number" ? record["at"] : 0,
    host: Array.isArray(record["hosts"]) ? record["hosts"].map(text).join(", ") : of("host"),
    event: of("event"),
    who: of("person") || of("principal") || of("caller") || of("by") || of("client"),
    what: [of("method"), of("path")].filter(Boolean).join(" ") || [of("kind"), of("name") || of("whom") || of("what")].filter(Boolean).join(" "),
    by: [of("decision"), of("policy"), of("rule"), of("reason")].filter(Boolean).join(" · "),
    record,
  };
}

function Found({ found }: { found: AuditFound }) {
  const gone = Object.entries(found.missing);
  return (
    <>
      {gone.length > 0 && <p class="partial">Without the logs of {gone.map(([host, why]) => `${host}: ${why}`).join("; ")}</p>}
      <p class="small">
        {found.total} found in the logs of {found.hosts.join(", ") || "nobody"}
        {found.total > found.records.length ? `; the newest ${found.records.length} are shown` : ""}
      </p>
      <Table
        label="Audit records"
        rows={found.records.map(rowOf)}
        id={(row) => `${row.host} ${text(row.record["n"])}`}
        why="No record of this time is about this service: an `audit` document says which requests are recorded."
        sorted={{ name: "Time", down: true }}
        columns={[
          { name: "Time", by: (row) => row.at, show: (row) => (row.at ? moment(row.at) : "") },
          { name: "Event", by: (row) => row.event, show: (row) => row.event },
          { name: "Who", by: (row) => row.who, show: (row) => row.who },
          { name: "What", by: (row) => row.what, show: (row) => row.what },
          { name: "Decision", show: (row) => row.by },
          { name: "Host", by: (row) => row.host, show: (row) => row.host },
          {
            name: "Record",
            show: (row) => (
              <details>
                <summary>as it is</summary>
                <pre class="json">{JSON.stringify(row.record, null, 2)}</pre>
              </details>
            ),
          },
        ]}
      />
    </>
  );
}
