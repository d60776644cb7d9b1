import { expect, it } from "vitest";
import { converging, standing } from "./agents";

it("says of a change on how many agents it is in force, and who took longest", () => {
  const change = (host: string, revision: number, took_s: number | null, at = 100) => ({ host, revision, what: ["route/a.p"], at, took_s });
  expect(converging([change("a", 7, 0.01), change("b", 7, 0.03, 99), change("a", 9, null), change("b", 9, 0.02)])).toEqual([
    { revision: 9, what: ["route/a.p"], at: 100, done: ["b"], waiting: ["a"], slowest_s: 0.02, slowest: "b" },
    { revision: 7, what: ["route/a.p"], at: 99, done: ["a", "b"], waiting: [], slowest_s: 0.03, slowest: "b" },
  ]);
});

it("says of a document that is refused that it is, and by whom", () => {
  const row = { revision: 9, what: ["route/a.p"], at: 1, done: ["a", "b"], waiting: [], slowest_s: 0, slowest: "" };
  const refused = (host: string, revision: number) => ({ host, kind: "route", pattern: "a.p", path: "$", reason: "r", revision, last_good: 7, closed: false, watched: false });
  expect(standing(row, [])).toEqual(["good", "on 2 agents"]);
  expect(standing(row, [refused("a", 7)])).toEqual(["good", "on 2 agents"]);
  expect(standing(row, [refused("a", 9), refused("b", 9)])).toEqual(["bad", "refused by a, b"]);
  expect(standing(row, [refused("b", 9)])).toEqual(["bad", "refused by b, in force on 1"]);
  expect(standing({ ...row, done: ["a"], waiting: ["b"] }, [])).toEqual(["warn", "on 1, not on b"]);
});
