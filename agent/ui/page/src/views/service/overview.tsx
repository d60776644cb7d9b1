/** Golden signals over time, versions with what they get, and where requests go by the route in force. */

import { query } from "../../api/http";
import type { Figures, Policy, Series, ServiceDetail } from "../../api/types";
import { useKept, useLive } from "../../api/use";
import { rate, seconds, share } from "../../format";
import { Chart } from "../../parts/chart";
import { Choice, Empty, Partial, Trouble, Waiting } from "../../parts/basics";
import { Table } from "../../parts/table";
import { link, place, say } from "../../router";
import { RouteRules } from "./route";

const SPANS = [
  ["900", "15 minutes"],
  ["3600", "1 hour"],
] as const;

export function OverviewTab({ name, detail }: { name: string; detail: ServiceDetail }) {
  const span = place.value.query.get("span") === "3600" ? "3600" : "900";
  const step = span === "3600" ? 60 : 10;
  const asked = { service: name, scope: "mesh" };
  const series = useKept(useLive<Series>(query("/figures/series", { ...asked, by: "service", last_s: span, step_s: step }), 10));
  const versions = useLive<Figures>(query("/figures", { ...asked, by: "version", last_s: 60 }), 10);
  const row = series.body?.items.find((each) => each.service === name);
  const shared = { until: series.body?.until ?? 0, stepS: series.body?.step_s ?? step };
  const route = detail.in_force.find((each) => each.kind === "route");
  return (
    <>
      <div class="filters">
        <Choice label="Charts of the last" value={span} of={SPANS} say={(value) => say({ span: value })} />
      </div>
      {series.problem && <Trouble problem={series.problem} />}
      <Partial missing={series.body?.missing} asked={series.body?.asked} />
      {!series.body ? (
        !series.problem && <Waiting problem={undefined} what="figures" />
      ) : !row ? (
        <Empty>No request for {name} was seen in this time: requests that go around the agents are not seen.</Empty>
      ) : (
        <div class="charts">
          <Chart title="Requests a second" {...shared} show={rate} lines={[{ name: "requests", points: row.rate, colour: "--blue" }]} />
          <Chart title="Share that fails (5xx)" {...shared} show={share} lines={[{ name: "errors", points: row.errors, colour: "--red" }]} />
          <Chart
            title="Time to answer"
            {...shared}
            show={seconds}
            lines={[
              { name: "p50", points: row.p50_s, colour: "--blue" },
              { name: "p95", points: row.p95_s, colour: "--orange", dash: [6, 3] },
              { name: "p99", points: row.p99_s, colour: "--red", dash: [2, 3] },
            ]}
          />
          <Chart title="Requests in flight" {...shared} show={(value) => value.toFixed(1)} lines={[{ name: "in flight", points: row.in_flight, colour: "--blue" }]} />
        </div>
      )}
      <h2>Versions, the last minute</h2>
      {versions.problem && <Trouble problem={versions.problem} />}
      <Versions detail={detail} figures={versions.body} />
      <h2>Where requests go</h2>
      <Route route={route} name={name} versions={detail.versions} />
      <h2>Who calls it, and whom it calls</h2>
      <Neighbours name={name} />
    </>
  );
}

/** By all agents: each sees only those calls that go by it. */
function Neighbours({ name }: { name: string }) {
  const edges = { scope: "mesh", by: "edge", last_s: 3600 };
  const callers = useKept(useLive<Figures>(query("/figures", { ...edges, service: name }), 10));
  const callees = useKept(useLive<Figures>(query("/figures", { ...edges, caller: name }), 10));
  const problem = callers.problem ?? callees.problem;
  if (!callers.body || !callees.body) return problem ? <Trouble problem={problem} /> : <Waiting problem={undefined} what="who calls whom" />;
  const names = (of: readonly string[]): string[] => [...new Set(of)].sort();
  return (
    <>
      <Partial missing={callers.body.missing} asked={callers.body.asked} />
      <p>
        In the last hour: called by <Names of={names(callers.body.items.map((each) => each.caller))} />; calls <Names of={names(callees.body.items.map((each) => each.service))} />.
      </p>
    </>
  );
}

function Names({ of }: { of: readonly string[] }) {
  if (of.length === 0) return <>nobody</>;
  return (
    <>
      {of.map((each, at) => (
        <>
          {at > 0 ? ", " : ""}
          {each ? <a href={link(["service", each])}>{each}</a> : "callers without a name"}
        </>
      ))}
    </>
  );
}

function Route({ route, name, versions }: { route: Policy | undefined; name: string; versions: Record<string, number> }) {
  if (!route) return <Empty>No route is in force for {name}: a request goes to any of its instances.</Empty>;
  return <RouteRules route={route} name={name} versions={versions} />;
}

function Versions({ detail, figures }: { detail: ServiceDetail; figures: Figures | undefined }) {
  const seen = new Map((figures?.items ?? []).map((each) => [each.version, each]));
  const total = [...seen.values()].reduce((sum, each) => sum + each.rate, 0);
  const names = [...new Set([...Object.keys(detail.versions), ...seen.keys()])].filter((each) => detail.versions[each] || seen.get(each)?.requests).sort();
  return (
    <Table
      label="Versions"
      rows={names}
      id={(version) => version}
      why="It has no instance, and no request was seen."
      columns={[
        { name: "Version", by: (version) => version, show: (version) => version || "no version" },
        { name: "Instances", right: true, by: (version) => detail.versions[version] ?? 0, show: (version) => detail.versions[version] ?? 0 },
        { name: "Rate", right: true, by: (version) => seen.get(version)?.rate ?? 0, show: (version) => rate(seen.get(version)?.rate ?? 0) },
        {
          name: "Share",
          show: (version) => {
            const part = total > 0 ? (seen.get(version)?.rate ?? 0) / total : 0;
            return (
              <>
                <meter min={0} max={1} value={part} aria-label={`Share of ${version || "no version"}`} /> {share(part)}
              </>
            );
          },
        },
        { name: "Errors", right: true, by: (version) => seen.get(version)?.errors ?? 0, show: (version) => share(seen.get(version)?.errors ?? 0) },
        { name: "p95", right: true, by: (version) => seen.get(version)?.p95_s ?? -1, show: (version) => seconds(seen.get(version)?.p95_s) },
      ]}
    />
  );
}
