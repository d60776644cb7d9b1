import { expect, it } from "vitest";
import { fitting } from "./mesh";

it("is as large as there is room for, and never too small to be read", () => {
  expect([fitting(0, 1000), fitting(900, 1000), fitting(1100, 1000), fitting(1400, 1000), fitting(9000, 1000)]).toEqual([3, 3, 2, 1, 1]);
});
