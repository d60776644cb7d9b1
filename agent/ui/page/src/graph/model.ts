/** Who calls whom, as a picture of a size that can be drawn: pure.
 *
 * Laws
 * - Filter first, draw then: what is not wanted is in no layout.
 * - Never more than MOST_DRAWN nodes: namespaces are drawn as one each, and where even those are too many, it is said
 *   how many are not drawn. Never more than MOST_WAYS ways: those that fail first, then those with most requests. More of
 *   them are no picture, and take a layout seconds.
 * - What figures fold away ("others") is shown as what it is, and belongs to nobody.
 */

import type { Figure, Policy, Service } from "../api/types";
import { namespaceOf, plural, rate, share } from "../format";
import { rulesOf, sidesOf } from "../views/service/rules";

export const MOST_DRAWN = 80;
export const MOST_WAYS = 160;
/** Callers who do not say who they are; no service can have a name with spaces. */
export const NOBODY = "callers without a name";
const BAD_SHARE = 0.05;
const WARN_SHARE = 0.01;

export type Health = "good" | "warn" | "bad" | "idle";

export interface Node {
  id: string;
  kind: "service" | "namespace" | "outside";
  name: string;
  services: number;
  instances: number;
  healthy: number;
  rate: number;
  errors: number;
  p95_s: number | null;
  health: Health;
  /** Where it leads, by the documents in force: `75% v1, 25% v2`, `v1 active`, `in cluster-b by 2 gateways`; empty: to any instance. */
  way: string;
  /** What the mesh does to its requests now: breaker, shed, … */
  marks: string[];
}

export interface Edge {
  id: string;
  from: string;
  to: string;
  rate: number;
  errors: number;
  p95_s: number | null;
  health: Health;
}

export interface Graph {
  nodes: Node[];
  edges: Edge[];
  /** Services that the filters leave, drawn or not. */
  wanted: number;
  /** Namespaces that are drawn as one node. */
  folded: string[];
  /** Nodes for which there was no room. */
  left: number;
  /** Ways for which there was none. */
  waysLeft: number;
}

export interface Wish {
  text: string;
  namespace: string;
  onlyBad: boolean;
  hideIdle: boolean;
  /** A service, and how many calls around it. */
  focus: string;
  depth: number;
  /** Namespaces that are drawn service by service, whatever their number. */
  opened: ReadonlySet<string>;
  /** Nothing is folded, and nothing left out for want of room: for a table. */
  flat: boolean;
}

export const EVERYTHING: Wish = { text: "", namespace: "", onlyBad: false, hideIdle: false, focus: "", depth: 1, opened: new Set(), flat: false };

interface Part {
  rate: number;
  failed: number;
  p95_s: number | null;
}

export function healthOf(instances: number, healthy: number, rate: number, errors: number): Health {
  if (errors >= BAD_SHARE || (instances > 0 && healthy === 0)) return "bad";
  if (errors >= WARN_SHARE || healthy < instances) return "warn";
  return rate === 0 && instances === 0 ? "idle" : "good";
}

const edgeHealth = (errors: number): Health => (errors >= BAD_SHARE ? "bad" : errors >= WARN_SHARE ? "warn" : "good");

/** Of `services` and the calls among them (`edges`: figures by edge; `figures`: by service). */
export function graphOf(services: readonly Service[], figures: readonly Figure[], edges: readonly Figure[], wish: Wish, ways: ReadonlyMap<string, string> = new Map()): Graph {
  edges = edges.filter((each) => each.requests > 0);
  const known = new Map(services.map((each) => [each.name, each]));
  const own = new Map(figures.map((each) => [each.service, each]));
  const names = new Set([...known.keys(), ...edges.flatMap((each) => [each.service, each.caller || NOBODY])]);
  const all = new Map<string, Node>();
  for (const name of names) all.set(name, serviceNode(name, known.get(name), own.get(name), ways));
  for (const { service, caller, rate: perS } of edges) {
    const from = all.get(caller || NOBODY);
    const to = all.get(service);
    if (from?.kind === "outside") from.rate += perS;
    if (to?.kind === "outside") to.rate += perS;
  }
  for (const node of all.values()) if (node.kind === "outside" && node.rate > 0) node.health = "good";

  let wanted = [...all.values()].filter((node) => isWanted(node, wish));
  if (wish.focus && all.has(wish.focus)) {
    const around = neighbours(wish.focus, edges, wish.depth);
    wanted = [...all.values()].filter((node) => around.has(node.id));
  } else if (wish.text || wish.onlyBad || wish.namespace) {
    // Those that were looked for, and whom they talk to at once: a service without its edges tells little.
    const ids = new Set(wanted.map((node) => node.id));
    if (ids.size <= MOST_DRAWN / 4) {
      for (const { service, caller } of edges) {
        const from = caller || NOBODY;
        if (wanted.some((node) => node.id === service)) ids.add(from);
        if (wanted.some((node) => node.id === from)) ids.add(service);
      }
    }
    wanted = [...all.values()].filter((node) => ids.has(node.id) && (!wish.hideIdle || node.rate > 0 || node.kind !== "service"));
  }

  const folded = foldedNamespaces(wanted, wish);
  const place = (name: string): string => (folded.has(namespaceOf(name)) && all.get(name)?.kind === "service" ? `*.${namespaceOf(name)}` : name);
  const shown = new Map<string, Node>();
  for (const node of wanted) {
    const id = place(node.id);
    if (id === node.id) shown.set(id, node);
    else shown.set(id, joined(shown.get(id), node, id));
  }
  const kept = [...shown.values()].sort((a, b) => severity(b) - severity(a) || b.rate - a.rate || (a.id < b.id ? -1 : 1));
  const drawn = new Map(kept.slice(0, wish.flat ? kept.length : MOST_DRAWN).map((node) => [node.id, node]));

  const sums = new Map<string, Part & { from: string; to: string }>();
  for (const row of edges) {
    const from = place(row.caller || NOBODY);
    const to = place(row.service);
    if (!drawn.has(from) || !drawn.has(to) || (from === to && from.startsWith("*."))) continue;
    const id = `${from} ${to}`;
    const sum = sums.get(id) ?? { from, to, rate: 0, failed: 0, p95_s: null };
    sum.rate += row.rate;
    sum.failed += row.rate * row.errors;
    sum.p95_s = row.p95_s === null ? sum.p95_s : Math.max(sum.p95_s ?? 0, row.p95_s);
    sums.set(id, sum);
  }
  const drawnEdges = [...sums].map(([id, { failed, ...edge }]) => {
    const errors = edge.rate > 0 ? failed / edge.rate : 0;
    return { id, ...edge, errors, health: edgeHealth(errors) };
  });
  drawnEdges.sort((a, b) => RANK[b.health] - RANK[a.health] || b.rate - a.rate || (a.id < b.id ? -1 : 1));
  const waysLeft = drawnEdges.splice(wish.flat ? drawnEdges.length : MOST_WAYS).length;
  // Whoever is nobody's caller and called by nobody in this picture says nothing here.
  const used = new Set(drawnEdges.flatMap((edge) => [edge.from, edge.to]));
  const nodes = [...drawn.values()].filter((node) => node.kind !== "outside" || used.has(node.id));
  return {
    nodes: nodes.sort((a, b) => (a.id < b.id ? -1 : 1)),
    edges: drawnEdges.sort((a, b) => (a.id < b.id ? -1 : 1)),
    wanted: wanted.filter((node) => node.kind === "service").length,
    folded: [...folded].sort(),
    left: kept.length - drawn.size,
    waysLeft,
  };
}

/** What stands below its name. */
export function belowOf(node: Node): string {
  if (node.kind === "outside") return `${node.id === NOBODY ? "they have no credentials" : "not registered now"} · ${rate(node.rate)}`;
  const what = node.kind === "namespace" ? `${node.services} services` : `${node.healthy}/${node.instances} healthy`;
  return [`${what} · ${rate(node.rate)}`, ...node.marks, ...(node.way ? [node.way] : [])].join(" · ");
}

/** The ways of services by the documents that say one: `kind pattern` leads to the words. */
export function waysOf(documents: readonly Policy[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const { kind, pattern, mode, document } of documents) {
    const words = mode !== "enforce" ? "" : kind === "route" ? routeWords(document) : kind === "import" ? importWords(document) : "";
    if (words) found.set(`${kind} ${pattern}`, words);
  }
  return found;
}

function routeWords(document: unknown): string {
  const split = rulesOf(document).find((rule) => rule.targets.filter((target) => target.part > 0).length > 1);
  if (split) return `${split.match ? "for some " : ""}${split.targets.filter((target) => target.part > 0).map((target) => `${share(target.part)} ${target.words.replace("version ", "")}`).join(", ")}`;
  const sides = sidesOf(document);
  return sides ? `${sides.active} active` : "";
}

function importWords(document: unknown): string {
  const { trust_domain, gateways } = document as { trust_domain?: unknown; gateways?: unknown };
  return `in ${String(trust_domain)} by ${plural(Array.isArray(gateways) ? gateways.length : 0, "gateway")}`;
}

function serviceNode(name: string, known: Service | undefined, figure: Figure | undefined, ways: ReadonlyMap<string, string>): Node {
  const perS = figure?.rate ?? 0;
  const errors = figure?.errors ?? 0;
  const instances = known?.instances ?? 0;
  const healthy = known?.healthy ?? 0;
  const way = known?.policies.map((each) => (each.mode === "enforce" ? (ways.get(`${each.kind} ${each.pattern}`) ?? "") : "")).find(Boolean) ?? "";
  const marks: string[] = [];
  if ((figure?.refused["breaker"] ?? 0) > 0) marks.push("breaker");
  if (Object.values(figure?.shed ?? {}).some((count) => count > 0)) marks.push("shed");
  if ((figure?.refused["ratelimit"] ?? 0) > 0) marks.push("limited");
  if ((figure?.refused["authz"] ?? 0) + (figure?.refused["authn"] ?? 0) + (figure?.refused["isolation"] ?? 0) > 0) marks.push("denied");
  return {
    id: name,
    // Of more than a page of services the rest is known by its figures.
    kind: known || figure ? "service" : "outside",
    name,
    services: 1,
    instances,
    healthy,
    rate: perS,
    errors,
    p95_s: figure?.p95_s ?? null,
    health: known ? healthOf(instances, healthy, perS, errors) : "idle",
    way,
    marks,
  };
}

function isWanted(node: Node, wish: Wish): boolean {
  if (node.kind === "outside") return !wish.text && !wish.namespace && !wish.onlyBad;
  if (wish.namespace && namespaceOf(node.name) !== wish.namespace) return false;
  if (wish.text && !node.name.includes(wish.text.trim().toLowerCase())) return false;
  if (wish.onlyBad && node.health !== "bad" && node.health !== "warn" && node.marks.length === 0) return false;
  return !wish.hideIdle || node.rate > 0;
}

function neighbours(focus: string, edges: readonly Figure[], depth: number): Set<string> {
  const found = new Set([focus]);
  for (let step = 0; step < depth; step++) {
    const here = new Set(found);
    for (const { service, caller } of edges) {
      const from = caller || NOBODY;
      if (here.has(service)) found.add(from);
      if (here.has(from) && from !== NOBODY) found.add(service);
    }
  }
  return found;
}

/** Those without traffic first, then those of the most services, until what is left has room. */
function foldedNamespaces(wanted: readonly Node[], wish: Wish): Set<string> {
  const sizes = new Map<string, number>();
  const busy = new Set<string>();
  for (const node of wanted) {
    if (node.kind !== "service") continue;
    sizes.set(namespaceOf(node.name), (sizes.get(namespaceOf(node.name)) ?? 0) + 1);
    if (node.rate > 0 || node.health === "bad") busy.add(namespaceOf(node.name));
  }
  let count = wanted.length;
  const folded = new Set<string>();
  if (wish.focus || wish.flat) return folded;
  for (const [namespace, size] of [...sizes].sort((a, b) => Number(busy.has(a[0])) - Number(busy.has(b[0])) || b[1] - a[1])) {
    if (count <= MOST_DRAWN || size < 2) break;
    if (wish.opened.has(namespace)) continue;
    folded.add(namespace);
    count -= size - 1;
  }
  return folded;
}

const RANK: Record<Health, number> = { idle: 0, good: 1, warn: 2, bad: 3 };
const severity = (node: Node): number => RANK[node.health];

function joined(sum: Node | undefined, node: Node, id: string): Node {
  const before = sum ?? { ...node, id, name: id, kind: "namespace" as const, services: 0, instances: 0, healthy: 0, rate: 0, errors: 0, p95_s: null, health: "idle" as Health, way: "", marks: [] };
  const perS = before.rate + node.rate;
  return {
    ...before,
    services: before.services + 1,
    instances: before.instances + node.instances,
    healthy: before.healthy + node.healthy,
    rate: perS,
    errors: perS > 0 ? (before.errors * before.rate + node.errors * node.rate) / perS : 0,
    p95_s: node.p95_s === null ? before.p95_s : Math.max(before.p95_s ?? 0, node.p95_s),
    health: RANK[node.health] > RANK[before.health] ? node.health : before.health,
    marks: [...new Set([...before.marks, ...node.marks])],
  };
}
