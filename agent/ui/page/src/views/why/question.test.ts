import { expect, it } from "vitest";
import { askedBy, inWords, isSame, serviceOf, usualCaller } from "./question";

const asked = (query: string) => askedBy(new URLSearchParams(query));

it("is told in words, with all that makes it another one", () => {
  expect(inWords(asked("url=http://pets.production/cats&caller=shop.production"))).toBe("GET http://pets.production/cats as shop.production");
  expect(inWords(asked("url=pets/&method=POST&headers=x-tier: free&claims=sub=ann"))).toBe("POST pets/, with x-tier: free, sub=ann");
  expect(isSame(asked("url=a&kind=route"), asked("method=GET&url=a&kind=timeout"))).toBe(true);
  for (const other of ["url=b", "url=a&method=PUT", "url=a&caller=c", "url=a&headers=x:1", "url=a&claims=x=1"]) expect(isSame(asked("url=a"), asked(other))).toBe(false);
});

it("is of the service that the URL names", () => {
  for (const url of ["http://pets.production/cats", "http://Pets.production:80", "pets.production/cats?x=http://y", "//pets.production", "pets.production"]) expect(serviceOf(url)).toBe("pets.production");
  expect(serviceOf("")).toBe("");
});

it("is asked as who calls most, over all agents", () => {
  const call = (host: string, caller: string, requests: number, service = "pets") => ({ host, caller, service, requests });
  expect(usualCaller([call("a", "shop", 5), call("a", "till", 8), call("b", "shop", 4), call("a", "", 99), call("a", "films", 99, "cats")], "pets")).toBe("shop");
  expect(usualCaller([call("a", "", 9)], "pets")).toBe("");
});
