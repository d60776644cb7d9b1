/** Compared answers, events, and advice of scaling. */

import type { Comparison, MeshEvent, Page, Scaled, ServiceDetail } from "../../api/types";
import { query } from "../../api/http";
import { useLive, useOnce } from "../../api/use";
import { away, plural, seconds } from "../../format";
import { me } from "../../me";
import { Empty, Mark, Partial, Trouble, Waiting } from "../../parts/basics";
import { Table } from "../../parts/table";

export function AnswersTab({ name, detail }: { name: string; detail: ServiceDetail }) {
  const may = me.value?.may.operate === true;
  const there = [...detail.in_force, ...detail.watched].some((each) => each.kind === "shadow");
  const seen = useOnce<Comparison>(may && there ? `/shadow/${encodeURIComponent(name)}?scope=mesh` : null);
  if (!may) return <Empty>Compared answers hold what services said: they are shown to who operates the mesh. `shoal dashboard` opens a page that knows who you are.</Empty>;
  if (!there) return <Empty>No answers of {name} are compared: a `shadow` document sends copies to a candidate.</Empty>;
  if (!seen.body) return <Waiting problem={seen.problem} what="compared answers" />;
  const { outcome, total, median_s, fields, skipped, agents, left_out, thresholds } = seen.body;
  return (
    <>
      {seen.problem && <Trouble problem={seen.problem} />}
      <p class="said">
        <Mark health={outcome === "regression" ? "bad" : outcome === "equal" ? "good" : "warn"}>{outcome === "unknown" ? `unknown before ${thresholds["min_requests"]} are compared` : outcome}</Mark>: {plural(total, "request")} compared by{" "}
        {agents.join(", ") || "nobody so far"}
        {Object.entries(median_s).map(([who, value]) => (value === null ? "" : `; ${who} ${seconds(value)}`))}
        {Object.entries(skipped).map(([reason, count]) => `; ${count} not: ${reason}`)}. <button type="button" onClick={seen.again}>Ask again</button>
      </p>
      {Object.entries(left_out).map(([host, reason]) => (
        <p class="partial" key={host}>
          Without {host}: {reason}
        </p>
      ))}
      <Table
        label="Fields that differ"
        rows={fields}
        id={(each) => each.field}
        why={total === 0 ? "No request was compared so far." : "No field of the answers differs."}
        columns={[
          { name: "Field", by: (each) => each.field, show: (each) => <code>{each.field}</code> },
          { name: "Differs", right: true, by: (each) => each.raw, show: (each) => each.raw },
          { name: "Noise", right: true, by: (each) => each.noise, show: (each) => each.noise },
          { name: "Beyond noise", right: true, by: (each) => each.absolute_percent, show: (each) => `${each.absolute_percent.toFixed(1)}% of requests` },
          { name: "Verdict", by: (each) => Number(each.regression), show: (each) => <Mark health={each.regression ? "bad" : "good"}>{each.regression ? "regression" : "noise"}</Mark> },
          {
            name: "For example",
            show: (each) => {
              const [first] = each.examples;
              if (!first) return "";
              return (
                <details>
                  <summary>
                    <code>{first.primary}</code> became <code>{first.candidate}</code>
                  </summary>
                  <ul class="examples">
                    {each.examples.map((one) => (
                      <li key={one.request}>
                        {one.request}: <code>{one.primary}</code>, and <code>{one.candidate}</code>
                      </li>
                    ))}
                  </ul>
                </details>
              );
            },
          },
        ]}
      />
    </>
  );
}

export function EventsTab({ name }: { name: string }) {
  const seen = useLive<Page<MeshEvent>>(query("/events", { scope: "mesh", service: name, limit: 500 }), 5);
  if (!seen.body) return <Waiting problem={seen.problem} what="events" />;
  return (
    <>
      {seen.problem && <Trouble problem={seen.problem} />}
      <Partial missing={seen.body.missing} asked={seen.body.asked} />
      <Table
        label="Events"
        rows={seen.body.items}
        id={(each) => `${each.host} ${each.time} ${each.type} ${each.subject}`}
        why="Nothing has turned: no breaker, no ejection, nothing that waits for a webhook."
        sorted={{ name: "When", down: true }}
        columns={[
          { name: "When", by: (each) => each.time, show: (each) => <time dateTime={each.time}>{away(each.time, Date.now())}</time> },
          { name: "Event", by: (each) => each.type, show: (each) => each.type },
          { name: "Of", by: (each) => each.subject, show: (each) => each.subject },
          { name: "Why", show: (each) => each.reason },
          { name: "Agent", by: (each) => each.host, show: (each) => each.host },
          { name: "Told", by: (each) => each.state, show: (each) => each.state },
        ]}
      />
    </>
  );
}

export function ScaleTab({ name }: { name: string }) {
  const seen = useLive<Page<Scaled>>(query("/scale", { scope: "mesh", service: name, limit: 10 }), 5);
  if (!seen.body) return <Waiting problem={seen.problem} what="advice" />;
  const found = seen.body.items;
  if (found.length === 0) return <Empty>Nobody advises how many instances {name} should have: a `scale` document asks for it.</Empty>;
  return (
    <>
      <Partial missing={seen.body.missing} asked={seen.body.asked} />
      {found.map((each) => (
        <article class="card" key={`${each.host} ${each.mode}`}>
          <h2>
            {each.replicas} {each.replicas === 1 ? "instance" : "instances"}
            {each.mode === "audit" ? " (only watched)" : ""}
          </h2>
          <p>{each.reason}</p>
          <p class="small">
            There are {each.instances}, {each.ready} ready; between {each.least} and {each.most}
            {each.panic ? "; load has jumped" : ""}
            {each.whole ? "" : "; not every agent was heard: nothing is taken away"}. By {each.policy} @{each.revision}, {each.host} advises.
          </p>
        </article>
      ))}
    </>
  );
}
