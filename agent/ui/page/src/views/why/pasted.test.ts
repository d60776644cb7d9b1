import { expect, it } from "vitest";
import { pasted } from "./pasted";

const of = (text: string) => {
  const found = pasted(text);
  return found && [found.method, found.url, found.caller, found.headers, found.left];
};

it("reads a line of curl as a shell would", () => {
  expect(of("curl http://pets.production/cats")).toEqual(["GET", "http://pets.production/cats", "", "", []]);
  expect(of("$ curl -sS -o /dev/null -w '%{http_code}' -x http://127.0.0.1:15001 http://pets.production/")).toEqual(["GET", "http://pets.production/", "", "", []]);
  expect(of(`curl -X PUT -H 'X-Tier: free' \\\n  -H "x-a: say \\"so\\"" -d @body --max-time 3 'http://pets.production/cats?n=1&m=2'`)).toEqual(["PUT", "http://pets.production/cats?n=1&m=2", "", 'X-Tier: free\nx-a: say "so"', []]);
  expect(of("curl -XDELETE -Hx-a:1 pets.production/1")).toEqual(["DELETE", "pets.production/1", "", "x-a: 1", []]);
  expect(of("curl --json '{}' --url=http://pets/")?.slice(0, 4)).toEqual(["POST", "http://pets/", "", "content-type: application/json"]);
  expect(of("curl -G -d n=1 http://pets/")?.[0]).toBe("GET");
  expect(of("curl -I http://pets/")?.[0]).toBe("HEAD");
  expect(of("curl -H 'Host: pets.production' http://127.0.0.1:15006/cats")).toEqual(["GET", "http://pets.production/cats", "", "", []]);
  expect(of("curl -sS")).toBeNull();
});

it("reads a head, and a record", () => {
  expect(of("POST /cats?n=1 HTTP/1.1\r\nHost: pets.production\r\nX-Tier: free\r\nContent-Length: 3\r\n\r\na:b")).toEqual(["POST", "http://pets.production/cats?n=1", "", "X-Tier: free", []]);
  expect(of("GET http://pets.production/cats HTTP/1.1")).toEqual(["GET", "http://pets.production/cats", "", "", []]);
  expect(of("GET /cats HTTP/1.1\nX-Tier: free")).toBeNull();
  expect(of('{"method":"GET","host":"pets.production","target":"/cats?n=3","caller":"shop.production","headers":{"x-tier":"free"}}')).toEqual(["GET", "http://pets.production/cats?n=3", "shop.production", "x-tier: free", []]);
  for (const other of ['{"method":"GET"}', "{", "[]", "null", '{"method":1,"host":"a","target":"/"}']) expect(of(other)).toBeNull();
});

it("takes nothing that proves who somebody is, and says so", () => {
  const found = pasted("curl -u ann:x -b a=b -H 'X-API-Key: shoal_a_b' -H 'Authorization: Bearer t' http://ann:pw@pets.production/");
  expect(found?.left).toEqual(["authorization", "cookie", "x-api-key", "the name before @"]);
  expect(found?.url).toBe("http://pets.production/");
  expect(found?.headers).toBe("");
});

it("leaves what is something else alone", () => {
  for (const text of ["http://pets.production/cats", "pets.production", "", "curling", "GET out"]) expect(of(text)).toBeNull();
});
