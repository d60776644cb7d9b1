/** One service: tabs, each in a file of its own, and what is true of it above them. */

import { query } from "../../api/http";
import type { Figures, Page, Refused, ServiceDetail } from "../../api/types";
import { useLive } from "../../api/use";
import { plural, rate, share } from "../../format";
import { healthOf } from "../../graph/model";
import { HEALTH_WORD } from "../../graph/picture";
import { Mark, Trouble, Waiting } from "../../parts/basics";
import { link, place } from "../../router";
import { byDocument, covers, REFUSED, RefusedOnes } from "../policies";
import { AuditTab } from "./audit";
import { AnswersTab, EventsTab, ScaleTab } from "./others";
import { ChainTab } from "./chain";
import { InstancesTab } from "./instances";
import { OverviewTab } from "./overview";
import { PoliciesTab } from "./policies";
import { RequestsTab } from "./requests";

const TABS = [
  ["", "Overview"],
  ["instances", "Instances"],
  ["policies", "Policies"],
  ["chain", "Chain"],
  ["requests", "Live requests"],
  ["answers", "Compared answers"],
  ["events", "Events"],
  ["audit", "Audit"],
  ["scale", "Scale"],
] as const;

export function ServiceView() {
  const name = place.value.parts[1] ?? "";
  const tab = place.value.query.get("tab") ?? "";
  const seen = useLive<ServiceDetail>(`/services/${encodeURIComponent(name)}`, 2);
  const figures = useLive<Figures>(query("/figures", { by: "service", service: name, scope: "mesh", last_s: 60 }), 10).body;
  const refused = byDocument(useLive<Page<Refused>>(REFUSED, 5).body?.items ?? []).filter((each) => covers(each.pattern, name));
  const detail = seen.body;
  const now = figures?.items.find((each) => each.service === name);
  const health = detail ? healthOf(detail.instances, detail.healthy, now?.rate ?? 0, now?.errors ?? 0) : "idle";
  return (
    <section>
      <p class="crumbs">
        <a href={link(["mesh"])}>Mesh</a> / <a href={link(["mesh"], { focus: name })}>who calls it</a> /{" "}
        <a href={link(["why"], { url: `http://${name}/` })}>ask why</a>
      </p>
      <h1>{name}</h1>
      {seen.problem && <Trouble problem={seen.problem} />}
      {detail ? (
        <>
          <p class="said" role="status">
            <Mark health={health}>{HEALTH_WORD[health]}</Mark> {now ? `${rate(now.rate)}, ${share(now.errors)} fail; ` : ""}
            {detail.healthy} of {plural(detail.instances, "instance")} healthy
            {detail.draining ? `, ${detail.draining} on the way out` : ""}
            {Object.keys(detail.versions).length ? `; ${Object.entries(detail.versions).map(([version, count]) => `${version || "no version"}: ${count}`).join(", ")}` : ""}
          </p>
          <RefusedOnes rows={refused} />
          {detail.closed.map((each) => (
            <p class="trouble" role="alert" key={`${each.kind} ${each.pattern}`}>
              Requests are refused: {each.kind}/{each.pattern} is not known: {each.reason}
            </p>
          ))}
          <nav class="tabs" aria-label="Of this service">
            {TABS.map(([id, words]) => (
              <a key={id} href={link(["service", name], { tab: id })} aria-current={tab === id ? "page" : undefined}>
                {words}
              </a>
            ))}
          </nav>
          <Tab id={tab} name={name} detail={detail} />
        </>
      ) : (
        !seen.problem && <Waiting problem={undefined} what={name} />
      )}
    </section>
  );
}

function Tab({ id, name, detail }: { id: string; name: string; detail: ServiceDetail }) {
  switch (id) {
    case "instances":
      return <InstancesTab detail={detail} />;
    case "policies":
      return <PoliciesTab detail={detail} />;
    case "chain":
      return <ChainTab name={name} />;
    case "requests":
      return <RequestsTab name={name} />;
    case "answers":
      return <AnswersTab name={name} detail={detail} />;
    case "events":
      return <EventsTab name={name} />;
    case "audit":
      return <AuditTab name={name} />;
    case "scale":
      return <ScaleTab name={name} />;
    default:
      return <OverviewTab name={name} detail={detail} />;
  }
}
