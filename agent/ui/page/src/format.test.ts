import { expect, it } from "vitest";
import { share } from "./format";

it("says of no share that it is all or nothing, where it is not", () => {
  expect([0, 0.0004, 0.05, 0.5, 0.989, 0.996, 0.99996, 1].map(share)).toEqual(["0%", "<0.1%", "5.0%", "50%", "99%", "99.6%", ">99.9%", "100%"]);
});
