import { expect, it } from "vitest";
import { copyFor, pathOf } from "./requests";

it("begins paths as paths begin", () => {
  expect([pathOf(""), pathOf("/cats"), pathOf("cats")]).toEqual(["", "/cats", "/cats"]);
});

it("knows copies from requests", () => {
  expect(copyFor(["route: rules[0]", "shadow: a copy, for candidate"])).toBe("candidate");
  expect(copyFor(["shadow: 2 copies"])).toBeUndefined();
  expect(copyFor([])).toBeUndefined();
});
