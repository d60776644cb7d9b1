import { expect, it } from "vitest";
import { converging } from "./agents";

it("says of a change on how many agents it is in force, and who took longest", () => {
  const change = (host: string, revision: number, took_s: number | null, at = 100) => ({ host, revision, what: ["route/a.p"], at, took_s });
  expect(converging([change("a", 7, 0.01), change("b", 7, 0.03, 99), change("a", 9, null), change("b", 9, 0.02)])).toEqual([
    { revision: 9, what: ["route/a.p"], at: 100, done: ["b"], waiting: ["a"], slowest_s: 0.02, slowest: "b" },
    { revision: 7, what: ["route/a.p"], at: 99, done: ["a", "b"], waiting: [], slowest_s: 0.03, slowest: "b" },
  ]);
});
