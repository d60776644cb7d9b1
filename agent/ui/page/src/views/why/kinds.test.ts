import { expect, it } from "vitest";
import { distance, isKind, noKind, patternsOf } from "./kinds";

it("says which kind was meant, where one is near", () => {
  expect(noKind("timeot")).toBe("there is no kind timeot (did you mean timeout?)");
  expect(noKind("ruote")).toBe("there is no kind ruote (did you mean route?)");
  expect(noKind("Route")).toBe("there is no kind Route (did you mean route?)");
  expect(noKind("elephants")).toBe("there is no kind elephants");
  expect(isKind("timeout") && !isKind("timeot")).toBe(true);
  expect([distance("", "abc"), distance("abc", "abc"), distance("abc", "acb"), distance("abc", "xbcd")]).toEqual([3, 0, 1, 2]);
});

it("knows whom a document may be for", () => {
  expect(patternsOf(["pets.production", "shop.production", "films.test", "lonely"])).toEqual(["pets.production", "shop.production", "films.test", "lonely", "*.production", "*.test", "*"]);
});
