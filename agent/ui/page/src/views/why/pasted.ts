/** A request as people have it at hand: a curl line, the head of a request, a record of `shoal logs -o json`. Pure.
 *
 * Law: what stands in the address is shared by its link, so what proves who somebody is is not taken from what is pasted, and that is said.
 */

export interface Pasted {
  url: string;
  method: string;
  caller: string;
  headers: string;
  /** Names of headers that are left out. */
  left: string[];
}

const MOST = 64 * 1024;
const SECRET = new Set(["authorization", "proxy-authorization", "cookie", "x-api-key"]);
/** What is said of the connection, or of a body that nobody sends. */
const OF_THE_WAY = new Set(["host", "connection", "content-length", "transfer-encoding", "keep-alive", "proxy-connection"]);
/** Options of curl with a value. Those that mean nothing here have to be known, or their value were the URL. */
const VALUED = /^(?:-[AbCcDdEeFHhKmoPQrTtUuwXxYyz]|--(?:request|header|data(?:-(?:raw|binary|ascii|urlencode))?|json|user-agent|cookie(?:-jar)?|user|output|write-out|max-time|connect-timeout|proxy(?:-user|-header)?|form|upload-file|referer|resolve|connect-to|cert|key|cacert|capath|unix-socket|retry(?:-delay|-max-time)?|limit-rate|max-redirs|range|interface|config|url|oauth2-bearer|noproxy))$/;

/** Null: it is nothing of that sort, and goes where it is pasted. */
export function pasted(text: string): Pasted | null {
  if (text.length > MOST) return null;
  const plain = text.trim();
  if (/^(?:\$ )?curl\s/.test(plain)) return ofCurl(words(plain.replace(/^\$ /, "")).slice(1));
  if (/^[A-Z]+ \S+ HTTP\/\d/.test(plain)) return ofHead(plain.split(/\r?\n/));
  if (plain.startsWith("{")) return ofRecord(plain);
  return null;
}

function ofCurl(rest: string[]): Pasted | null {
  let [method, url] = ["", ""];
  let [sends, gets] = [false, false];
  const fields: [string, string][] = [];
  for (let n = 0; n < rest.length; n += 1) {
    const word = rest[n] ?? "";
    if (!word.startsWith("-") || word === "-") {
      url ||= word;
      continue;
    }
    const joined = /^(--[a-z0-9-]+)=(.*)$/s.exec(word) ?? (/^-[XHdAbeumox]./.test(word) ? [word, word.slice(0, 2), word.slice(2)] : null);
    const name = joined?.[1] ?? word;
    const value = joined ? (joined[2] ?? "") : VALUED.test(name) ? (rest[(n += 1)] ?? "") : "";
    if (name === "-X" || name === "--request") method = value;
    else if (name === "-I" || name === "--head") method ||= "HEAD";
    else if (name === "-G" || name === "--get") gets = true;
    else if (name === "-H" || name === "--header") fields.push(halves(value));
    else if (name === "-A" || name === "--user-agent") fields.push(["user-agent", value]);
    else if (name === "-e" || name === "--referer") fields.push(["referer", value]);
    else if (name === "-b" || name === "--cookie") fields.push(["cookie", value]);
    else if (name === "-u" || name === "--user" || name === "--oauth2-bearer") fields.push(["authorization", value]);
    else if (name === "--json") {
      sends = true;
      fields.push(["content-type", "application/json"]);
    } else if (name === "-d" || name === "-F" || name === "--form" || name.startsWith("--data")) sends = true;
    else if (name === "--url") url ||= value;
  }
  return url ? made(url, method || (sends && !gets ? "POST" : "GET"), "", fields) : null;
}

function ofHead(lines: string[]): Pasted | null {
  const [method = "", target = ""] = (lines[0] ?? "").split(" ");
  const end = lines.indexOf("");
  const fields = lines.slice(1, end < 0 ? undefined : end).map(halves);
  const host = fields.find(([name]) => name.toLowerCase() === "host")?.[1] ?? "";
  const url = target.startsWith("/") ? host && `http://${host}${target}` : target;
  return url ? made(url, method, "", fields) : null;
}

function ofRecord(text: string): Pasted | null {
  let record: unknown;
  try {
    record = JSON.parse(text.split("\n")[0] ?? "");
  } catch {
    return null;
  }
  const { method, host, service, target, caller, headers } = record as Record<string, unknown>;
  const named = host || service;
  if (typeof method !== "string" || typeof named !== "string" || typeof target !== "string") return null;
  const fields = headers && typeof headers === "object" ? Object.entries(headers).map(([name, value]): [string, string] => [name, String(value)]) : [];
  return made(`http://${named}${target}`, method, typeof caller === "string" ? caller : "", fields);
}

function made(url: string, method: string, caller: string, fields: [string, string][]): Pasted {
  const named = fields.filter(([name]) => name && !OF_THE_WAY.has(name.toLowerCase()));
  const isSecret = ([name]: [string, string]): boolean => SECRET.has(name.toLowerCase());
  // A URL may say who asks, too.
  const bare = url.replace(/^([a-z]+:\/\/)[^/?#@]*@/i, "$1");
  const left = [...new Set(named.filter(isSecret).map(([name]) => name.toLowerCase())), ...(bare === url ? [] : ["the name before @"])];
  const host = fields.find(([name]) => name.toLowerCase() === "host")?.[1];
  return { url: host ? bare.replace(/^([a-z]+:\/\/)?[^/?#]*/i, `http://${host}`) : bare, method: method.toUpperCase(), caller, headers: named.filter((each) => !isSecret(each)).map(([name, value]) => `${name}: ${value}`).join("\n"), left };
}

function halves(line: string): [string, string] {
  const at = line.indexOf(":");
  return at < 0 ? [line.trim(), ""] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
}

/** As a shell parts them. */
function words(text: string): string[] {
  const found: string[] = [];
  let [word, open] = ["", false];
  for (const [piece, single, double, escaped, space] of text.matchAll(/'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(\r?\n|.)|(\s+)|[^\s'"\\]+|['"\\]/gs)) {
    if (space !== undefined) {
      if (open) found.push(word);
      [word, open] = ["", false];
      continue;
    }
    if (escaped !== undefined) {
      if (!escaped.endsWith("\n")) [word, open] = [word + escaped, true];
      continue;
    }
    word += single ?? double?.replace(/\\(["\\$`])/g, "$1") ?? piece;
    open = true;
  }
  if (open) found.push(word);
  return found;
}
