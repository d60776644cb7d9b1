import { describe, expect, it } from "vitest";
import { lineOf, steps } from "./locate";

const JSON_TEXT = `{
  "name": "a \\"quoted\\" thing: {",
  "rules": [
    {"match": {"path": "/a"}},
    {
      "split": [
        {"version": "v1", "weight": 90},
        {"version": "v2",
         "weight": "ten"}
      ]
    }
  ]
}`;
const YAML_TEXT = `# a comment
name: x
rules:
  - match:
      path: /a
  - split:
      - version: v1
        weight: 90
      # between
      - version: v2
        weight: ten
active: v1
`;

describe("a place in a text", () => {
  it("is read as documents write it", () => {
    expect(steps('$.rules[0].headers.request.set["x.y"]')).toEqual(["rules", 0, "headers", "request", "set", "x.y"]);
    expect(steps("$")).toEqual([]);
  });

  it("is found in JSON", () => {
    expect(lineOf(JSON_TEXT, "$.rules[1].split[1].weight")).toBe(8);
    expect(lineOf(JSON_TEXT, "$.rules[1].split[0]")).toBe(6);
    expect(lineOf(JSON_TEXT, "$.name")).toBe(1);
  });

  it("is found in YAML", () => {
    expect(lineOf(YAML_TEXT, "$.rules[1].split[1].weight")).toBe(10);
    expect(lineOf(YAML_TEXT, "$.rules[0].match.path")).toBe(4);
    expect(lineOf(YAML_TEXT, "$.active")).toBe(11);
  });

  it("is the nearest above, where it is not there", () => {
    expect(lineOf(JSON_TEXT, "$.rules[1].retry")).toBe(4);
    expect(lineOf(JSON_TEXT, "$")).toBeNull();
    expect(lineOf(JSON_TEXT, "$.nothing")).toBeNull();
  });

  it("ends, whatever the text is", () => {
    for (const text of ['{"a": ', "{", '{"a": [[[', "a:\n- - - b", "{]}", '{"a" "b" :::}', '{"\\']) {
      for (const path of ["$.a", "$.a[0][0]", "$.b[3].c"]) expect(() => lineOf(text, path)).not.toThrow();
    }
  });
});
