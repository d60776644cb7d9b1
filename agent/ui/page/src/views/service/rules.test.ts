import { describe, expect, it } from "vitest";
import { rulesOf, sidesOf, swapped } from "./rules";

describe("rules of a route", () => {
  it("gives each target its part", () => {
    const [rule] = rulesOf({ rules: [{ split: [{ version: "v1", weight: 90 }, { version: "v2", weight: 10 }] }] });
    expect(rule).toEqual({ name: "rules[0]", match: "", targets: [{ words: "version v1", part: 0.9, version: "v1", service: "" }, { words: "version v2", part: 0.1, version: "v2", service: "" }], more: [] });
  });

  it("counts a weight that does not stand there as one, and none where all are nothing", () => {
    expect(rulesOf({ rules: [{ split: [{ version: "a" }, { service: "b.c", weight: 3 }] }] })[0]?.targets.map((each) => each.part)).toEqual([0.25, 0.75]);
    expect(rulesOf({ rules: [{ split: [{ version: "a", weight: 0 }] }] })[0]?.targets[0]?.part).toBe(0);
  });

  it("draws no target for what the mesh answers itself, and says it", () => {
    const [rule] = rulesOf({ rules: [{ name: "down", match: { path: { prefix: "/x" } }, respond: { status: 503 } }] });
    expect(rule).toMatchObject({ name: "down", match: "path:{prefix:/x}", targets: [], more: ['respond: {"status":503}'] });
  });

  it("says what else a rule does, and never guesses at what is none", () => {
    expect(rulesOf({ rules: [{ rewrite: { path: "/y" }, headers: null }], active: "v1" })[0]).toMatchObject({ targets: [{ words: "version v1 (active)", part: 1 }], more: ['rewrite: {"path":"/y"}'] });
    expect(rulesOf({ rules: ["nonsense"] })[0]?.match).toBe('"nonsense"');
    expect(rulesOf(null)).toEqual([]);
    expect(rulesOf({ rules: 3 })).toEqual([]);
  });
});

describe("blue and green", () => {
  it("are changed over in JSON, and back", () => {
    const text = '{\n  "active": "v1",\n  "standby": "v2", "rules": []\n}';
    const other = swapped(text);
    expect(JSON.parse(other ?? "")).toEqual({ active: "v2", standby: "v1", rules: [] });
    expect(swapped(other ?? "")).toBe(text);
  });

  it("are changed over in YAML, with its comments", () => {
    expect(swapped("# sides\nactive: v1 # now\nstandby: 'v2'\n")).toBe("# sides\nactive: v2 # now\nstandby: 'v1'\n");
  });

  it("are none where a side is missing", () => {
    expect(swapped('{"active": "v1"}')).toBeNull();
    expect(sidesOf({ active: "v1", standby: "v2" })).toEqual({ active: "v1", standby: "v2" });
    expect(sidesOf({ active: "v1", standby: null })).toBeNull();
    expect(sidesOf("x")).toBeNull();
  });
});
