/** The text of a document: who put it, where something is wrong with it, and how it is laid out. Pure. */

import { Problem } from "../../api/http";
import { lineOf } from "../../parts/locate";

/** A problem whose path is the document's own, `$.rules[0]`, and not that of the question it was in. */
export function inDocument(problem: Problem): Problem {
  const path = problem.path.replace(/^\$\.documents\[\d+\](\.text)?/, "$").replace(/^\$\.text(?=\.|\[|$)/, "$");
  return new Problem(problem.status, problem.message, path);
}

export const isOfDocument = (problem: Problem): boolean => /^\$\.documents\[/.test(problem.path);

/** The line, counted from 0, where something is wrong; null: nobody knows. */
export function wrongLine(text: string, problem: Problem): number | null {
  const found = lineOf(text, problem.path);
  if (found !== null) return found;
  const told = /\bline (\d+)/.exec(problem.message)?.[1];
  const line = told === undefined ? NaN : Number(told) - 1;
  return line >= 0 && line < text.split("\n").length ? line : null;
}

/** Who put it, and why, as it says itself. */
export function authorOf(text: string): { by: string; reason: string } {
  const found = asJson(text);
  if (found) return { by: wordOf(found["by"]), reason: wordOf(found["reason"]) };
  return { by: inYaml(text, "by"), reason: inYaml(text, "reason") };
}

const wordOf = (value: unknown): string => (typeof value === "string" ? value : "");

function inYaml(text: string, name: string): string {
  const said = new RegExp(`(?:^|^\\{\\s*|^\\{.*,\\s*)${name}:[ \\t]*(?:"((?:[^"\\\\]|\\\\.)*)"|'((?:[^']|'')*)'|([^\\n#]*))`, "m").exec(text);
  if (!said) return "";
  if (said[1] !== undefined) return wordOf(asJson(`{"it": "${said[1]}"}`)?.["it"]);
  return said[2] !== undefined ? said[2].replaceAll("''", "'") : (said[3] ?? "").trim();
}

function asJson(text: string): Record<string, unknown> | null {
  try {
    const found: unknown = JSON.parse(text);
    return typeof found === "object" && found !== null && !Array.isArray(found) ? (found as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** JSON that was laid out by halves, or not at all, laid out; all else as it stands, and JSON that would not survive it. */
export function tidy(text: string): string {
  const found = asJson(text);
  if (!found) return text;
  const stands = text.trim();
  if ([1, 2, 3, 4].some((indent) => JSON.stringify(found, null, indent) === stands)) return text;
  const made = JSON.stringify(found, null, 2);
  return bare(made) === bare(stands) ? `${made}\n` : text;
}

/** Without the blanks between its words: what is left says the same, to the letter. */
const bare = (json: string): string => json.replace(/"(?:[^"\\]|\\.)*"|\s+/g, (part) => (part.startsWith('"') ? part : ""));
