/** Which policies apply here, of which level each is, and what is only watched. */

import type { Policy, ServiceDetail } from "../../api/types";
import { Empty, Json } from "../../parts/basics";
import { link } from "../../router";
import { Judged } from "../policies";

export function PoliciesTab({ detail }: { detail: ServiceDetail }) {
  return (
    <>
      <h2>In force</h2>
      <List found={detail.in_force} name={detail.name} none="No policy is in force: defaults hold (the pages of each kind name them)." />
      <h2>Only watched</h2>
      <List found={detail.watched} name={detail.name} none="None." />
      <p>
        <a class="button" href={link(["why"], { url: `http://${detail.name}/`, kind: "route", pattern: detail.name })}>
          Propose a document …
        </a>
      </p>
    </>
  );
}

function List({ found, name, none }: { found: readonly Policy[]; name: string; none: string }) {
  if (found.length === 0) return <Empty>{none}</Empty>;
  return (
    <>
      {found.map((each) => (
        <details class="card" key={`${each.mode} ${each.kind} ${each.pattern}`}>
          <summary>
            <strong>{each.kind}</strong> of <code>{each.pattern}</code> {each.pattern === name ? "" : each.pattern === "*" ? "(the whole mesh)" : "(its namespace)"} @{each.revision}
            {author(each.document)}
          </summary>
          {each.mode === "audit" && <Judged kind={each.kind} pattern={each.pattern} />}
          <Json value={each.document} />
          <a href={link(["policies", each.kind, each.pattern], { mode: each.mode === "audit" ? "audit" : "" })}>Whom else it touches</a> ·{" "}
          <a href={link(["why"], { url: `http://${name}/`, kind: each.kind, pattern: each.pattern, mode: each.mode })}>See what a change of it would do</a>
        </details>
      ))}
    </>
  );
}

/** Who put it, by his own word. */
function author(document: unknown): string {
  const { by, reason } = (typeof document === "object" && document !== null ? document : {}) as { by?: unknown; reason?: unknown };
  return `${typeof by === "string" && by ? `, by ${by}` : ""}${typeof reason === "string" && reason ? `: ${reason}` : ""}`;
}
