/** Services, and who calls whom, as traffic flows: filters first; now, or up to an hour ago. */

import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { query } from "../api/http";
import type { Figure, Figures, Page, Policy, Service } from "../api/types";
import { useKept, useLive } from "../api/use";
import { clock, namespaceOf, plural, rate, seconds, share } from "../format";
import { graphOf, waysOf, type Graph, type Node } from "../graph/model";
import { GLYPH, HEALTH_WORD, Picture } from "../graph/picture";
import { usePlaces } from "../graph/placing";
import { Choice, Empty, Mark, Partial, Search, Tick, Trouble, Waiting } from "../parts/basics";
import { Table } from "../parts/table";
import { link, place, say } from "../router";

const SPANS = [
  ["60", "1 minute"],
  ["300", "5 minutes"],
  ["900", "15 minutes"],
  ["3600", "1 hour"],
] as const;
const ZOOMS = [0.5, 0.7, 0.85, 1, 1.25, 1.6];

export function MeshView() {
  const words = place.value.query;
  const ago = Math.min(3600, Math.max(0, Math.round(Number(words.get("ago") ?? 0)) || 0));
  const span = SPANS.find(([value]) => value === words.get("span"))?.[0] ?? "60";
  const wanted = { scope: "mesh", limit: 1000, last_s: span, ago_s: ago };
  const services = useLive<Page<Service>>("/services?limit=1000", 2);
  const byService = useKept(useLive<Figures>(query("/figures", { by: "service", ...wanted }), 10));
  const byEdge = useKept(useLive<Figures>(query("/figures", { by: "edge", ...wanted }), 10));
  const routes = useLive<Page<Policy>>("/policies?kind=route&limit=1000", 2);
  const imports = useLive<Page<Policy>>("/policies?kind=import&limit=1000", 2);
  const opened = new Set((words.get("open") ?? "").split(",").filter(Boolean));
  const wish = {
    text: words.get("find") ?? "",
    namespace: words.get("namespace") ?? "",
    onlyBad: words.has("bad"),
    hideIdle: words.has("busy"),
    focus: words.get("focus") ?? "",
    depth: words.get("depth") === "2" ? 2 : 1,
    opened,
    flat: words.get("as") === "table",
  };
  const items = services.body?.items;
  if (!items) return <Waiting problem={services.problem} what="services" />;
  const figures = byService.body?.items ?? [];
  const edges = byEdge.body?.items ?? [];
  const ways = waysOf([...(routes.body?.items ?? []), ...(imports.body?.items ?? [])]);
  const graph = graphOf(items, figures, edges, wish, ways);
  const covered = byService.body?.covered_s;
  const namespaces = [...new Set(items.map((each) => namespaceOf(each.name)))].sort();
  const until = byService.body?.until;
  return (
    <section>
      <h1>Mesh</h1>
      <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        <Search label="Find a service" value={wish.text} say={(text) => say({ find: text, focus: undefined })} />
        <Choice
          label="Namespace"
          value={wish.namespace}
          of={[["", "all"], ...namespaces.map((each) => [each, each] as const)]}
          say={(namespace) => say({ namespace })}
        />
        <Choice label="Figures of" value={span} of={SPANS} say={(value) => say({ span: value })} />
        <label class="field">
          <span>{ago === 0 ? "Now" : `${plural(Math.round(ago / 60), "minute")} ago${until ? `, until ${clock(until)}` : ""}`}</span>
          <input
            type="range"
            aria-label="Minutes ago"
            min="0"
            max="60"
            step="1"
            value={60 - Math.round(ago / 60)}
            aria-valuetext={ago === 0 ? "now" : `${Math.round(ago / 60)} minutes ago`}
            onInput={(event) => say({ ago: String((60 - Number(event.currentTarget.value)) * 60 || "") })}
          />
        </label>
        <Tick label="only what is wrong" on={wish.onlyBad} say={(on) => say({ bad: on ? "1" : undefined })} />
        <Tick label="only with traffic" on={wish.hideIdle} say={(on) => say({ busy: on ? "1" : undefined })} />
        <Tick label="as a table" on={words.get("as") === "table"} say={(on) => say({ as: on ? "table" : undefined })} />
      </form>
      {ago > 0 && <p class="partial">Requests and calls are those of then. Instances, their health and where routes lead are those of now.</p>}
      {covered === 0 && <p class="partial">Nobody has counted in this time: agents keep an hour of figures, from when each started.</p>}
      {covered !== undefined && covered > 0 && covered < Number(span) - 10 && <p class="partial">Of this time agents have counted {seconds(covered)} only: they keep an hour, from when each started.</p>}
      {wish.focus && !graph.nodes.some((node) => node.id === wish.focus) && (
        <p class="partial" role="status">
          There is no service {wish.focus} now, and none was called in this time: all are shown.
        </p>
      )}
      {wish.focus && graph.nodes.some((node) => node.id === wish.focus) && (
        <p>
          Around <strong>{wish.focus}</strong>:{" "}
          <Choice label="calls away" value={String(wish.depth)} of={[["1", "1"], ["2", "2"]]} say={(depth) => say({ depth })} />{" "}
          <a href={link(["service", wish.focus])}>open it</a>, or{" "}
          <button type="button" onClick={() => say({ focus: undefined, depth: undefined })}>
            show all
          </button>
        </p>
      )}
      {byService.problem && <Trouble problem={byService.problem} />}
      {!byService.problem && byEdge.problem && <Trouble problem={byEdge.problem} />}
      <Partial missing={byService.body?.missing} asked={byService.body?.asked} />
      {byService.body && byService.body.folded > 0 && (
        <p class="partial">{plural(byService.body.folded, "row")} of figures had no room, and are in “others” of their service.</p>
      )}
      <Said graph={graph} total={services.body?.total ?? items.length} shown={items.length} opened={opened} />
      {graph.nodes.length === 0 ? (
        <Empty>{why(items.length, wish.text || wish.namespace || wish.onlyBad || wish.hideIdle)}</Empty>
      ) : words.get("as") === "table" ? (
        <Rows graph={graph} figures={figures} />
      ) : (
        <Drawn graph={graph} focus={wish.focus} opened={opened} />
      )}
    </section>
  );
}

function why(services: number, filtered: unknown): string {
  if (services === 0) return "There is no service yet: `shoal run` or `shoal register` beside an agent registers the first one.";
  return filtered ? "No service is as the filters say: take one of them away." : "No traffic was seen in this time.";
}

function Said(props: { graph: Graph; total: number; shown: number; opened: ReadonlySet<string> }) {
  const { graph, total, shown, opened } = props;
  return (
    <p class="said" role="status">
      {plural(graph.wanted, "service")} of {total}
      {shown < total ? `; the first ${shown} by name are looked at` : ""}
      {graph.folded.length > 0 ? `; ${graph.folded.map((each) => `*.${each || "(no namespace)"}`).join(", ")} drawn as one each: click to open` : ""}
      {graph.left > 0 ? `; ${graph.left} are not drawn, for want of room: narrow it by a filter` : ""}
      {graph.waysLeft > 0 ? `; of the ways those that fail and those with most requests, without ${graph.waysLeft}` : ""}
      {opened.size > 0 && (
        <>
          {"; "}
          <button type="button" onClick={() => say({ open: undefined })}>
            close namespaces
          </button>
        </>
      )}
    </p>
  );
}

function Drawn({ graph, focus, opened }: { graph: Graph; focus: string; opened: ReadonlySet<string> }) {
  const chosen = useSignal<number | null>(null);
  const canvas = useRef<HTMLDivElement>(null);
  const placed = usePlaces(graph);
  // As large as there is room for, until somebody chooses; never so small that it cannot be read.
  const room = canvas.current?.clientWidth ?? 0;
  const zoom = chosen.value ?? fitting(placed.value?.width ?? 0, room);
  const here = Object.fromEntries(place.value.query);
  const href = (node: Node): string =>
    node.kind === "namespace"
      ? link(["mesh"], { ...here, open: [...opened, node.name.slice(2)].join(",") })
      : node.id === focus
        ? link(["service", node.name])
        : link(["mesh"], { ...here, focus: node.name });
  return (
    <>
      <div class="tools">
        <button type="button" aria-label="Smaller" disabled={zoom === 0} onClick={() => (chosen.value = zoom - 1)}>
          −
        </button>
        <button type="button" aria-label="Larger" disabled={zoom === ZOOMS.length - 1} onClick={() => (chosen.value = zoom + 1)}>
          +
        </button>
        <span class="legend">
          {(["good", "warn", "bad", "idle"] as const).map((health) => (
            <Mark key={health} health={health}>
              {HEALTH_WORD[health]}
            </Mark>
          ))}
        </span>
      </div>
      <div class="canvas" ref={canvas} tabIndex={0} role="region" aria-label="Who calls whom">
        {placed.value ? <Picture graph={graph} placed={placed.value} zoom={ZOOMS[zoom] ?? 1} href={href} focus={focus} /> : <p class="waiting">Drawing …</p>}
      </div>
    </>
  );
}

/** Which of ZOOMS is the largest, up to the natural size, at which a width fits into the room there is. */
export function fitting(width: number, room: number): number {
  const natural = ZOOMS.indexOf(1);
  if (width === 0 || room === 0) return natural;
  for (let at = natural; at > 1; at--) if (width * (ZOOMS[at] ?? 1) <= room) return at;
  return 1;
}

function Rows({ graph, figures }: { graph: Graph; figures: readonly Figure[] }) {
  const p99 = new Map(figures.map((each) => [each.service, each.p99_s]));
  return (
    <>
      <Table
        label="Services"
        rows={graph.nodes.filter((node) => node.kind !== "outside")}
        id={(node) => node.id}
        why="No service is as the filters say."
        sorted={{ name: "Rate", down: true }}
        columns={[
          {
            name: "Service",
            by: (node) => node.name,
            show: (node) => (node.kind === "service" ? <a href={link(["service", node.name])}>{node.name}</a> : node.name),
          },
          { name: "State", by: (node) => GLYPH[node.health], show: (node) => <Mark health={node.health}>{HEALTH_WORD[node.health]}</Mark> },
          { name: "Healthy", right: true, by: (node) => node.healthy, show: (node) => `${node.healthy}/${node.instances}` },
          { name: "Rate", right: true, by: (node) => node.rate, show: (node) => rate(node.rate) },
          { name: "Errors", right: true, by: (node) => node.errors, show: (node) => share(node.errors) },
          { name: "p95", right: true, by: (node) => node.p95_s ?? -1, show: (node) => seconds(node.p95_s) },
          { name: "p99", right: true, by: (node) => p99.get(node.id) ?? -1, show: (node) => seconds(p99.get(node.id)) },
          { name: "Goes to", show: (node) => node.way },
          { name: "Marks", show: (node) => node.marks.join(", ") },
        ]}
      />
      <h2>Who calls whom</h2>
      <Table
        label="Calls"
        rows={graph.edges}
        id={(edge) => edge.id}
        why="No call was seen in this time."
        sorted={{ name: "Rate", down: true }}
        columns={[
          { name: "Caller", by: (edge) => edge.from, show: (edge) => edge.from },
          { name: "Calls", by: (edge) => edge.to, show: (edge) => edge.to },
          { name: "State", by: (edge) => GLYPH[edge.health], show: (edge) => <Mark health={edge.health}>{HEALTH_WORD[edge.health]}</Mark> },
          { name: "Rate", right: true, by: (edge) => edge.rate, show: (edge) => rate(edge.rate) },
          { name: "Errors", right: true, by: (edge) => edge.errors, show: (edge) => share(edge.errors) },
          { name: "p95", right: true, by: (edge) => edge.p95_s ?? -1, show: (edge) => seconds(edge.p95_s) },
        ]}
      />
    </>
  );
}
