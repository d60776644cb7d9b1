/** Where in a text a place is: `$.rules[0].split[1].weight` of JSON or YAML. Pure; a line, counted from 0, or null.
 *
 * Good enough to point: JSON is read, YAML by its indentation, and who cannot be found leads to the nearest above it.
 */

type Step = string | number;

export function steps(path: string): Step[] {
  const found: Step[] = [];
  for (const [, name, index, quoted] of path.replace(/^\$/, "").matchAll(/\.([A-Za-z0-9_*-]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]/g)) {
    if (name !== undefined) found.push(name);
    else if (index !== undefined) found.push(Number(index));
    else if (quoted !== undefined) found.push(quoted);
  }
  return found;
}

export function lineOf(text: string, path: string): number | null {
  const wanted = steps(path);
  if (wanted.length === 0) return null;
  const at = text.trimStart().startsWith("{") ? inJson(text, wanted) : inYaml(text, wanted);
  return at === null ? null : text.slice(0, at).split("\n").length - 1;
}

/** The offset of the deepest step that is there. */
function inJson(text: string, wanted: readonly Step[]): number | null {
  let at = 0;
  let best: number | null = null;
  const blank = (): void => {
    while (at < text.length && /[\s,:]/.test(text[at] ?? "")) at++;
  };
  const quoted = (): string => {
    const from = at;
    at++;
    while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    at++;
    try {
      return JSON.parse(text.slice(from, at)) as string;
    } catch {
      return "";
    }
  };
  const value = (depth: number, on: boolean): void => {
    blank();
    const open = text[at];
    if (open === '"') {
      quoted();
    } else if (open === "{" || open === "[") {
      at++;
      for (let index = 0; at < text.length; index++) {
        blank();
        if (text[at] === "}" || text[at] === "]") {
          at++;
          return;
        }
        const here = at;
        const key: Step = open === "{" ? quoted() : index;
        const found = on && wanted[depth] === key;
        if (found) best = here;
        const before = at;
        value(depth + 1, found);
        if (at === before) at++;
      }
    } else {
      while (at < text.length && !/[\s,\]}]/.test(text[at] ?? "")) at++;
    }
  };
  value(0, true);
  return best;
}

function inYaml(text: string, wanted: readonly Step[]): number | null {
  const lines = text.split("\n");
  let offset = 0;
  const places = lines.map((line) => {
    const at = offset;
    offset += line.length + 1;
    return at;
  });
  let best: number | null = null;
  let from = 0;
  let least = -1;
  for (const step of wanted) {
    let index = -1;
    let found = false;
    let level: number | null = null;
    for (let number = from; number < lines.length; number++) {
      const line = lines[number] ?? "";
      if (/^\s*(#|$)/.test(line)) continue;
      const lead = /^\s*/.exec(line)?.[0].length ?? 0;
      const dashes = /^\s*((?:- +)*)/.exec(line)?.[1]?.length ?? 0;
      if (number > from && lead < least) break;
      if (typeof step === "number") {
        if (!/^\s*-/.test(line)) continue;
        level ??= lead;
        if (lead !== level) continue;
        index++;
        if (index === step) {
          [from, least, best, found] = [number, lead + 1, places[number] ?? null, true];
          break;
        }
      } else {
        const key = /^\s*(?:- +)*["']?([^"':#]+?)["']?\s*:/.exec(line)?.[1];
        const column = lead + dashes;
        level ??= column;
        if (column !== level || key !== step) continue;
        [from, least, best, found] = [number, column + (dashes && number === from ? 0 : 1), places[number] ?? null, true];
        if (typeof wanted[wanted.indexOf(step) + 1] === "number") [from, least] = [number + 1, column];
        else from = number + 1;
        break;
      }
    }
    if (!found) break;
  }
  return best;
}
