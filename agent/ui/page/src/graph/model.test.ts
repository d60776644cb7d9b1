import { describe, expect, it } from "vitest";
import type { Figure, Service } from "../api/types";
import { belowOf, EVERYTHING, graphOf, healthOf, MOST_DRAWN, MOST_WAYS, NOBODY, waysOf } from "./model";

const service = (name: string, more: Partial<Service> = {}): Service => ({ name, instances: 2, healthy: 2, draining: 0, versions: { v1: 2 }, policies: [], ...more });
const figure = (name: string, caller = "", more: Partial<Figure> = {}): Figure => ({
  service: name,
  caller,
  route: "",
  version: "",
  instance: "",
  requests: 600,
  rate: 10,
  errors: 0,
  statuses: {},
  p50_s: 0.001,
  p95_s: 0.002,
  p99_s: 0.003,
  in_flight: 0,
  pending: 0,
  refused: {},
  shed: {},
  ...more,
});
const many = (count: number, namespaces: number): Service[] => Array.from({ length: count }, (_, at) => service(`s${at}.n${at % namespaces}`));

const policy = (kind: string, pattern: string, document: unknown, mode: "enforce" | "audit" = "enforce") => ({ kind, pattern, revision: 1, mode, document });

describe("where services lead", () => {
  it("is said as the document in force has it, and not guessed from versions", () => {
    const ways = waysOf([
      policy("route", "a.p", { rules: [{ split: [{ version: "v1", weight: 3 }, { version: "v2", weight: 1 }] }] }),
      policy("route", "b.p", { active: "v1", standby: "v2" }),
      policy("route", "c.p", { rules: [{ match: { path: "/x" }, rewrite: { path: "/y" } }] }),
      policy("route", "d.p", { rules: [{ match: { headers: { x: "1" } }, split: [{ version: "v1" }, { version: "v2" }] }] }),
      policy("route", "e.p", { rules: [{ split: [{ version: "v1", weight: 1 }, { version: "v2", weight: 0 }] }] }),
      policy("route", "f.p", { active: "v1", standby: "v2" }, "audit"),
      policy("import", "g.p", { trust_domain: "north", gateways: ["192.0.2.1:15006", "192.0.2.2:15006"] }),
    ]);
    expect(Object.fromEntries(ways)).toEqual({ "route a.p": "75% v1, 25% v2", "route b.p": "v1 active", "route d.p": "for some 50% v1, 50% v2", "import g.p": "in north by 2 gateways" });
    const ref = (kind: string, pattern: string) => ({ kind, pattern, revision: 1, mode: "enforce" as const });
    const [node] = graphOf([service("a.p", { versions: { v1: 1, v2: 1 }, policies: [ref("route", "a.p")] })], [], [], EVERYTHING, ways).nodes;
    expect(node && belowOf(node)).toBe("2/2 healthy · 0/s · 75% v1, 25% v2");
    const [only] = graphOf([service("c.p", { versions: { v1: 1, v2: 1 }, policies: [ref("route", "c.p")] })], [], [], EVERYTHING, ways).nodes;
    expect(only?.way).toBe("");
  });
});

describe("folding", () => {
  it("takes namespaces without traffic first, and nothing of a table", () => {
    const services = [...many(60, 1), ...Array.from({ length: 90 }, (_, at) => service(`t${at}.quiet`))];
    const busy = many(60, 1).map((each) => figure(each.name));
    expect(graphOf(services, busy, [], EVERYTHING).folded).toEqual(["quiet"]);
    const table = graphOf(services, busy, [], { ...EVERYTHING, flat: true });
    expect([table.nodes.length, table.folded, table.left]).toEqual([150, [], 0]);
  });
});

describe("the graph", () => {
  it("has services, and the calls among them", () => {
    const graph = graphOf([service("shop.p"), service("pets.p")], [figure("pets.p")], [figure("pets.p", "shop.p")], EVERYTHING);
    expect(graph.nodes.map((node) => node.id)).toEqual(["pets.p", "shop.p"]);
    expect(graph.edges).toMatchObject([{ from: "shop.p", to: "pets.p", rate: 10, health: "good" }]);
  });

  it("draws callers without a name as what they are, and only where they call", () => {
    const graph = graphOf([service("pets.p")], [], [figure("pets.p", "")], EVERYTHING);
    expect(graph.nodes.find((node) => node.id === NOBODY)).toMatchObject({ kind: "outside", rate: 10, health: "good" });
    expect(graphOf([service("pets.p")], [], [], EVERYTHING).nodes).toHaveLength(1);
  });

  it("never draws more than there is room for, and says what it folds", () => {
    const services = many(1000, 10);
    const edges = services.slice(1).map((each, at) => figure(each.name, services[at]?.name ?? ""));
    const graph = graphOf(services, [], edges, EVERYTHING);
    expect(graph.nodes.length).toBeLessThanOrEqual(MOST_DRAWN);
    expect(graph.wanted).toBe(1000);
    expect(graph.folded).toHaveLength(10);
    expect(graph.nodes[0]).toMatchObject({ kind: "namespace", services: 100, instances: 200 });
    expect(graph.edges.every((edge) => edge.from !== edge.to)).toBe(true);
  });

  it("opens a namespace that somebody clicks, and says for how many there is no room", () => {
    const graph = graphOf(many(1000, 2), [], [], { ...EVERYTHING, opened: new Set(["n0"]) });
    expect(graph.folded).toEqual(["n1"]);
    expect(graph.nodes).toHaveLength(MOST_DRAWN);
    expect(graph.left).toBe(501 - MOST_DRAWN);
  });

  it("filters before it draws, and shows whom those talk to that were looked for", () => {
    const services = [...many(500, 1), service("pets.p"), service("shop.p"), service("films.p")];
    const edges = [figure("pets.p", "shop.p"), figure("films.p", "shop.p")];
    expect(graphOf(services, [], edges, { ...EVERYTHING, text: "PETS " }).nodes.map((node) => node.id)).toEqual(["pets.p", "shop.p"]);
    expect(graphOf(services, [], edges, { ...EVERYTHING, focus: "pets.p", depth: 2 }).nodes.map((node) => node.id)).toEqual(["films.p", "pets.p", "shop.p"]);
    expect(graphOf(services, [], edges, { ...EVERYTHING, namespace: "p" }).wanted).toBe(3);
  });

  it("shows only what is wrong, where that is asked for", () => {
    const services = [service("ill.p", { healthy: 1 }), service("well.p"), service("shed.p")];
    const figures = [figure("shed.p", "", { shed: { kept: 3 } })];
    expect(graphOf(services, figures, [], { ...EVERYTHING, onlyBad: true }).nodes.map((node) => node.id)).toEqual(["ill.p", "shed.p"]);
  });

  it("joins parts of one way by their rates, and never loses a failure", () => {
    const services = [service("a.x"), service("b.x"), ...many(200, 1)];
    const edges = [figure("s1.n0", "a.x", { rate: 10, errors: 1 }), figure("s2.n0", "a.x", { rate: 30, errors: 0 })];
    const edge = graphOf(services, [], edges, EVERYTHING).edges[0];
    expect(edge).toMatchObject({ from: "a.x", to: "*.n0", rate: 40, errors: 0.25, health: "bad" });
  });

  it("never draws more ways than make a picture: those that fail first, and says how many it leaves out", () => {
    const services = many(60, 30);
    const edges = services.flatMap((from) => services.slice(0, 10).map((to, at) => figure(to.name, from.name, { rate: at, errors: at === 3 ? 0.5 : 0 })));
    const graph = graphOf(services, [], edges.filter((each) => each.service !== each.caller), EVERYTHING);
    expect(graph.edges).toHaveLength(MOST_WAYS);
    expect(graph.edges.filter((each) => each.health === "bad")).toHaveLength(59);
    expect(graph.waysLeft).toBe(590 - MOST_WAYS);
  });

  it("says how a service is", () => {
    expect(healthOf(0, 0, 0, 0)).toBe("idle");
    expect(healthOf(2, 0, 0, 0)).toBe("bad");
    expect(healthOf(2, 1, 5, 0)).toBe("warn");
    expect(healthOf(2, 2, 5, 0.2)).toBe("bad");
    expect(healthOf(2, 2, 0, 0)).toBe("good");
  });
});
