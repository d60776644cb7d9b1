import { expect, it } from "vitest";
import { link, read } from "./router";

it("reads what it wrote, whatever stands in a name", () => {
  const place = read(link(["service", "a/b?c#d %"], { find: "x&y=z", none: undefined }));
  expect(place.parts).toEqual(["service", "a/b?c#d %"]);
  expect(Object.fromEntries(place.query)).toEqual({ find: "x&y=z" });
});

it("takes what somebody typed", () => {
  expect(read("#/service/50%").parts).toEqual(["service", "50%"]);
  expect(read("").parts).toEqual([]);
});
