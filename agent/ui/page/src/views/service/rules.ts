/** What a route says, rule by rule, as data to draw: pure. What is not understood here is shown as it stands, and never guessed. */

export interface Target {
  words: string;
  /** Of what the rule gets, from 0 to 1. */
  part: number;
  /** Of this very service; empty: any. */
  version: string;
  /** Another service; empty: this one. */
  service: string;
}

export interface Rule {
  name: string;
  /** Whom it is for, as JSON where that is not simple; empty: everybody. */
  match: string;
  targets: Target[];
  /** Fields that are neither a match nor a split: they act too. */
  more: string[];
}

type Doc = Record<string, unknown>;
const isDoc = (value: unknown): value is Doc => typeof value === "object" && value !== null && !Array.isArray(value);

export function rulesOf(document: unknown): Rule[] {
  if (!isDoc(document) || !Array.isArray(document["rules"])) return [];
  return document["rules"].map((rule: unknown, at) => (isDoc(rule) ? ruleOf(rule, at, document) : { name: `rules[${at}]`, match: JSON.stringify(rule), targets: [], more: [] }));
}

function ruleOf(rule: Doc, at: number, document: Doc): Rule {
  const split = Array.isArray(rule["split"]) ? rule["split"].filter(isDoc) : [];
  const weights = split.map((target) => (typeof target["weight"] === "number" ? target["weight"] : 1));
  const sum = weights.reduce((all, weight) => all + weight, 0);
  const answers = rule["redirect"] !== undefined || rule["respond"] !== undefined;
  const targets = split.map((target, number) => ({ words: targetWords(target), part: sum > 0 ? (weights[number] ?? 0) / sum : 0, version: nameOf(target["version"]), service: nameOf(target["service"]) }));
  const active = document["active"];
  const whole: Target[] = answers ? [] : [{ words: typeof active === "string" && active ? `version ${active} (active)` : "the service itself", part: 1, version: nameOf(active), service: "" }];
  return {
    name: typeof rule["name"] === "string" && rule["name"] ? rule["name"] : `rules[${at}]`,
    match: matchWords(rule["match"]),
    targets: targets.length > 0 ? targets : whole,
    more: Object.entries(rule)
      .filter(([name, value]) => !["name", "match", "split"].includes(name) && !isNothing(value))
      .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`),
  };
}

const nameOf = (value: unknown): string => (typeof value === "string" ? value : "");

/** A default, written out by the agent: not worth a line. */
function isNothing(value: unknown): boolean {
  return value === null || value === "" || (Array.isArray(value) && value.length === 0) || (isDoc(value) && Object.keys(value).length === 0);
}

function targetWords(target: Doc): string {
  const found: string[] = [];
  if (typeof target["service"] === "string" && target["service"]) found.push(target["service"]);
  if (typeof target["version"] === "string" && target["version"]) found.push(`version ${target["version"]}`);
  if (isDoc(target["labels"]) && Object.keys(target["labels"]).length) found.push(Object.entries(target["labels"]).map(([name, value]) => `${name}=${String(value)}`).join(", "));
  return found.join(" ") || "the service itself";
}

function matchWords(match: unknown): string {
  if (!isDoc(match)) return "";
  const kept = Object.fromEntries(Object.entries(match).filter(([, value]) => !isNothing(value)));
  return Object.keys(kept).length === 0 ? "" : JSON.stringify(kept).replaceAll('"', "").replace(/^\{|\}$/g, "");
}

/** A blue-green document with both sides changed over; null: it is none. The text stays as it was written otherwise. */
export function swapped(text: string): string | null {
  const sides = (name: string): RegExp => new RegExp(`((?:^|[{,\\s])["']?${name}["']?\\s*:\\s*["']?)([A-Za-z0-9._-]+)(["']?)`);
  const one = sides("active").exec(text);
  const other = sides("standby").exec(text);
  if (!one?.[2] || !other?.[2]) return null;
  const [from, to] = [one[2], other[2]];
  return text
    .replace(sides("active"), (_, head: string, __: string, tail: string) => `${head}${to}${tail}`)
    .replace(sides("standby"), (_, head: string, __: string, tail: string) => `${head}${from}${tail}`);
}

export function sidesOf(document: unknown): { active: string; standby: string } | null {
  if (!isDoc(document)) return null;
  const { active, standby } = document as { active?: unknown; standby?: unknown };
  return typeof active === "string" && typeof standby === "string" && active && standby ? { active, standby } : null;
}
