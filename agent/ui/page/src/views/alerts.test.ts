import { expect, it } from "vitest";
import { viewOf } from "./alerts";

it("leads to the view of what an alert is about, and nowhere else", () => {
  expect(viewOf("pets.production")).toBe("#/service/pets.production");
  expect(viewOf("pets.production/v1@alpha")).toBe("#/service/pets.production");
  expect(viewOf("route/pets.production $.routes[0]")).toBe("#/policies/route/pets.production");
  expect(viewOf("audits/route/*.production")).toBe("#/policies/route/*.production?mode=audit");
  for (const text of ["alpha", "alpha admin", "http://127.0.0.1:2379", "/shoal/default/x", "/shoal/other/", ""]) expect(viewOf(text)).toBeUndefined();
});
