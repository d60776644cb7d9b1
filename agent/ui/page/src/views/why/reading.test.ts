import { expect, it } from "vitest";
import { claimsOf, headersOf } from "./reading";

it("reads headers and claims a line each", () => {
  expect(headersOf("x-tier: free\n\n cookie: a=b; c:d \nalone")).toEqual([
    { name: "x-tier", value: "free" },
    { name: "cookie", value: "a=b; c:d" },
    { name: "alone", value: "" },
  ]);
  expect(claimsOf('sub=haxor69\nadmin=true\ngroups=["a"]\neq=a=b')).toEqual({ sub: "haxor69", admin: "true", groups: '["a"]', eq: "a=b" });
});
