import { expect, it } from "vitest";
import { rowOf } from "./audit";

it("says who did what, and what was decided", () => {
  const denied = { at: 5.5, host: "a", n: 7, event: "authz.denied", caller: "shop.p", principal: "", method: "POST", path: "/buy", decision: "denied", policy: "authz/pets.p", rule: "rules[1]", reason: "not on Sundays" };
  expect(rowOf(denied)).toEqual({ at: 5.5, host: "a", event: "authz.denied", who: "shop.p", what: "POST /buy", by: "denied · authz/pets.p · rules[1] · not on Sundays", record: denied });
});

it("shows of what was erased, or kept long enough, what is left", () => {
  expect(rowOf({ at: 5, host: "a", hosts: ["a", "b"], n: 1, event: "policy.put" })).toMatchObject({ at: 5, host: "a, b", event: "policy.put", who: "", what: "", by: "" });
  expect(rowOf({})).toMatchObject({ at: 0, host: "", event: "" });
});
