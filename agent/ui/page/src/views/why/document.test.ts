import { describe, expect, it } from "vitest";
import { Problem } from "../../api/http";
import { authorOf, inDocument, isOfDocument, tidy, wrongLine } from "./document";

const path = (of: string): string => inDocument(new Problem(409, "no", of)).path;

describe("a place", () => {
  it("is the document's own", () => {
    expect(path("$.documents[0].text.rules[0].split[0].weight")).toBe("$.rules[0].split[0].weight");
    expect(path("$.documents[12].text")).toBe("$");
    expect(path("$.documents[0].kind")).toBe("$.kind");
    expect(path("$.text.rules[1]")).toBe("$.rules[1]");
    expect(path("$.text")).toBe("$");
    expect(path("$.textual")).toBe("$.textual");
    expect(path("$.force")).toBe("$.force");
    expect(isOfDocument(new Problem(409, "", "$.documents[0].text"))).toBe(true);
    expect(isOfDocument(new Problem(400, "", "$.url"))).toBe(false);
  });

  it("is found in the text, by its path or by the line that is told", () => {
    expect(wrongLine("rules:\n- split:\n  - weight: ten\n", new Problem(400, "", "$.rules[0].split[0].weight"))).toBe(2);
    expect(wrongLine("a\nb\nc", new Problem(400, "not YAML: line 2, column 1"))).toBe(1);
    expect(wrongLine("a", new Problem(400, "line 7"))).toBeNull();
    expect(wrongLine("a", new Problem(400, "it is wrong"))).toBeNull();
  });
});

it("says who put it, as it says itself", () => {
  expect(authorOf('{"by": "ann", "reason": "it \\"is\\" so", "active": "v1"}')).toEqual({ by: "ann", reason: 'it "is" so' });
  expect(authorOf('active: v1\nby: "ann"\nreason: "a: \\"b\\" # c"\n')).toEqual({ by: "ann", reason: 'a: "b" # c' });
  expect(authorOf("by: ann # of us\nreason: 'it''s so'\n")).toEqual({ by: "ann", reason: "it's so" });
  expect(authorOf("rules:\n- by: nobody\n")).toEqual({ by: "", reason: "" });
  expect(authorOf("")).toEqual({ by: "", reason: "" });
});

it("is laid out where it was by halves, and says the same", () => {
  expect(tidy('{"by": "root", "reason": "back again", \n  "active": "v2",\n  "standby": "v1"\n}\n')).toBe('{\n  "by": "root",\n  "reason": "back again",\n  "active": "v2",\n  "standby": "v1"\n}\n');
  for (const left of ["# yaml\nactive: v1\n", '{\n "a": 1\n}\n', '{"a": 12345678901234567890}', '{"a": 1.0}', '{"a": 1, "a": 2}', '{"a": "\\u00e9"}', "{a: 1}", ""]) expect(tidy(left)).toBe(left);
});
