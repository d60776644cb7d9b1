import { expect, it } from "vitest";
import type { Refused, Service } from "../api/types";
import { byDocument, covers, instead, together, touched } from "./policies";

const service = (name: string, ...policies: [string, string, "enforce" | "audit"][]): Service => ({
  name,
  instances: 1,
  healthy: 1,
  draining: 0,
  versions: {},
  policies: policies.map(([kind, pattern, mode]) => ({ kind, pattern, mode, revision: 1 })),
});

it("touches those for whom it counts, and nobody by its name alone", () => {
  const services = [
    service("a.p", ["retry", "*.p", "enforce"]),
    service("b.p", ["retry", "b.p", "enforce"], ["retry", "*.p", "audit"]),
    service("c.q", ["timeout", "*", "enforce"]),
  ];
  expect(touched(services, "retry", "*.p", "enforce")).toEqual(["a.p"]);
  expect(touched(services, "retry", "*.p", "audit")).toEqual(["b.p"]);
  expect(touched(services, "retry", "*", "enforce")).toEqual([]);
});

it("says once what several hosts refuse, and what holds instead", () => {
  const row = (host: string, more: Partial<Refused> = {}): Refused => ({ host, kind: "retry", pattern: "a.p", path: "$.attempts", reason: "r", revision: 7, last_good: 0, closed: false, watched: false, ...more });
  const found = byDocument([row("a"), row("b"), row("a", { watched: true })]);
  expect(found.map((each) => each.hosts)).toEqual([["a", "b"], ["a"]]);
  expect([row("a"), row("a", { last_good: 5 }), row("a", { last_good: -1, closed: true })].map(instead)).toEqual([
    "Nothing is in force in its place.",
    "That of revision 5 stays in force.",
    "What was before it is not known, so requests are refused.",
  ]);
});

it("adds up what watched documents would have done, and knows whom a pattern is for", () => {
  const row = (host: string, requests: number, would = "refused") => ({ host, service: "a.p", kind: "authz", document: "a.p", done: "passed", would, requests });
  expect(together([row("a", 3), row("b", 4), row("a", 1, "passed")]).map((each) => [each.would, each.requests])).toEqual([
    ["refused", 7],
    ["passed", 1],
  ]);
  expect(["*", "*.p", "a.p"].map((each) => covers(each, "a.p"))).toEqual([true, true, true]);
  expect(["*.q", "b.p", "p", "*.a.p"].map((each) => covers(each, "a.p"))).toEqual([false, false, false, false]);
});
